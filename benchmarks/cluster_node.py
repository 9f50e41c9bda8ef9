"""A simulated node: its memory in the order of a real eviction policy, of which a real directory is told."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from cachestore.directory.memory import MemoryDirectory
from cachestore.eviction.base import Order
from cachestore.placement.nearest import Here
from cachestore.store.popularity import Popularity

NAMESPACE = b"simulated"


@dataclass(eq=False)
class Node:
    """`capacity` blocks of memory and a worker beside it; `load` prompts are under way there.

    `served` counts blocks that were read from this memory, by anybody. The worker computes prompts one after the other,
    until `busy`, and answers many at a time.
    """

    name: str
    capacity: int
    order: Order
    part: MemoryDirectory
    present: set[Hashable] = field(default_factory=set)
    popularity: Popularity = field(default_factory=Popularity)
    load: int = 0
    busy: float = 0.0
    served: int = 0
    lost: bool = False

    def join(self) -> None:
        """Comes into the cluster, with nothing."""
        # no life of a node that lives ends in a simulation, so nothing has to be said twice
        self.part.join(self.name, self.name, (), lambda: self.load)

    @property
    def here(self) -> Here:
        """Where its worker is."""
        assert self.part.life is not None
        return Here(self.name, self.part.life.incarnation)

    def read(self, keys: Sequence[bytes]) -> int:
        """How many of these consecutive blocks are here, up to the first that is not; they count as used."""
        if self.lost:
            return 0
        count = next((index for index, key in enumerate(keys) if key not in self.present), len(keys))
        self.order.touch(keys[:count])
        self.served += count
        return count

    def popular(self, keys: Sequence[bytes], after: int) -> list[bool]:
        """Which of these blocks, read from other nodes, were read from here `after` times lately."""
        return [count >= after for count in self.popularity.read(NAMESPACE, keys)]

    def keep(self, keys: Sequence[bytes], wanted: Sequence[int]) -> int:
        """Takes in the blocks `wanted` of a prompt, by index, while all others of it stay; how many came.

        Blocks that have no room beside those of the prompt that are here do not come.
        """
        present = self.present
        here = sum(key in present for key in keys)
        new = [index for index in wanted if keys[index] not in present][: self.capacity - here]
        self._make_room(len(new), frozenset(keys))
        for index in new:
            self.order.insert(keys[index], 1, keys[index - 1] if index else None)
            present.add(keys[index])
        self.part.announce(NAMESPACE, [keys[index] for index in new])
        return len(new)

    def _make_room(self, count: int, stay: frozenset[Hashable]) -> None:
        gone = []
        for _ in range(len(self.present) + count - self.capacity):
            key = self.order.evict(stay.__contains__)
            assert isinstance(key, bytes)
            self.present.remove(key)
            gone.append(key)
        if gone:
            self.part.withdraw(NAMESPACE, gone)
