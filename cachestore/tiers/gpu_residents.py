"""Which blocks are on the device, who uses them, and in which order they should leave. The caller holds the lock."""

import heapq
import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cachestore.eviction.base import Eviction, Order
from cachestore.seal import PARENT_BYTES, Header
from cachestore.tiers.base import Departure
from cachestore.tiers.gpu_blocks import runs
from cachestore.tiers.gpu_pages import PageSlot, Slab
from cachestore.tiers.ledger import Ledger


@dataclass(eq=False, slots=True)
class Resident:
    """One block: its header in raw form, its page, when it ends in monotonic seconds, and its pieces (see `runs`).

    In use it keeps its page. Removed meanwhile, it is out of sight at once and its page goes back with the last use.
    """

    header: Header
    slot: PageSlot
    ends: float = math.inf
    pieces: Sequence[tuple[int, int, int]] = ()
    name: Hashable = None
    users: int = 0
    gone: bool = False

    def __post_init__(self) -> None:
        self.pieces = runs(self.header)

    @property
    def nbytes(self) -> int:
        """Bytes of its sealed form."""
        return self.header.size + self.header.payload_bytes


@dataclass(eq=False)
class _Space:
    order: Order
    blocks: dict[bytes, Resident] = field(default_factory=dict)
    names: dict[Hashable, Resident] = field(default_factory=dict)


@dataclass(eq=False)
class Residents:
    """The blocks of one tier. `take_back` gives a page back to its pool."""

    eviction: Eviction
    ledger: Ledger
    take_back: Callable[[PageSlot], None]
    _spaces: dict[bytes, _Space] = field(default_factory=dict)
    _ending: list[tuple[float, bytes, bytes]] = field(default_factory=list)

    def find(self, namespace: bytes, key: bytes) -> Resident | None:
        """The block of this key."""
        space = self._spaces.get(namespace)
        return space.blocks.get(key) if space is not None else None

    def all(self, namespace: bytes) -> list[Resident]:
        """All blocks of a namespace."""
        space = self._spaces.get(namespace)
        return list(space.blocks.values()) if space is not None else []

    def namespaces(self) -> list[bytes]:
        """Those that have blocks."""
        return list(self._spaces)

    def clear(self, namespace: bytes, why: str) -> set[bytes]:
        """Takes all blocks of a namespace out of sight; their keys."""
        return {self.remove(block, why).key for block in self.all(namespace)}

    def add(self, new: Resident) -> None:
        """A block came; it replaces one of the same key."""
        header = new.header
        old = self.find(header.namespace, header.key)
        if old is not None:
            self.remove(old, "replaced")
        space = self._spaces.get(header.namespace)
        if space is None:
            space = self._spaces[header.namespace] = _Space(self.eviction.start())
        front = header.key[:PARENT_BYTES]
        # parents are known by their front; two keys that begin alike are no accident, but neither may be lost
        new.name = front if front not in space.names else header.key
        space.blocks[header.key] = space.names[new.name] = new
        space.order.insert(new.name, new.slot.size, header.parent if any(header.parent) else None)
        if new.ends != math.inf:
            heapq.heappush(self._ending, (new.ends, header.namespace, header.key))
        # of a durable block this is a copy like any other: the one that was acknowledged is elsewhere
        self.ledger.came(header.namespace, new.nbytes)

    def remove(self, block: Resident, why: str) -> Departure:
        """Takes a block out of sight, and its page back once nobody uses it."""
        header = block.header
        space = self._spaces[header.namespace]
        space.order.remove(block.name)
        return self._removed(space, block, why)

    def use(self, blocks: Iterable[Resident | None]) -> None:
        """One more user of each: the pages stay, and the blocks count as read."""
        found = list(blocks)
        for block in found:
            if block is not None:
                self.hold(block)
        for chain in _chains(found):
            self._spaces[chain[0].header.namespace].order.touch([block.name for block in chain])

    def hold(self, block: Resident) -> None:
        """One more user of a block that is in use already, or that was just found."""
        block.users += 1
        block.slot.slab.users += 1

    def leave(self, block: Resident) -> None:
        """One user less."""
        block.users -= 1
        block.slot.slab.users -= 1
        if block.gone and not block.users:
            self.take_back(block.slot)

    def evict(self, namespace: bytes, slab: Slab | None = None) -> Departure | None:
        """Lets the leaf go that should leave first, of those that nobody uses and that lie in `slab`, if given."""
        space = self._spaces.get(namespace)
        if space is None:
            return None
        names = space.names

        def stays(name: Hashable) -> bool:
            return names[name].users > 0 or (slab is not None and names[name].slot.slab is not slab)

        name = space.order.evict(stays)
        return self._removed(space, names[name], "evicted") if name is not None else None

    def overdue(self) -> Iterator[Departure]:
        """Lets the blocks go whose time is over."""
        now = time.monotonic()
        while self._ending and self._ending[0][0] <= now:
            ends, namespace, key = heapq.heappop(self._ending)
            block = self.find(namespace, key)
            # another block of this key may have come since
            if block is not None and block.ends == ends:
                yield self.remove(block, "ttl")

    def _removed(self, space: _Space, block: Resident, why: str) -> Departure:
        namespace, key = block.header.namespace, block.header.key
        block.gone = True
        del space.blocks[key], space.names[block.name]
        if not space.blocks:
            del self._spaces[namespace]
        if not block.users:
            self.take_back(block.slot)
        self.ledger.went(namespace, block.nbytes, why)
        return Departure(namespace, key, block.nbytes, why)


def _chains(found: Sequence[Resident | None]) -> Iterator[list[Resident]]:
    """The runs of blocks of which each is by its own word the child of the one before."""
    chain: list[Resident] = []
    for block in found:
        if chain and (block is None or block.header.parent != chain[-1].name):
            yield chain
            chain = []
        if block is not None:
            chain.append(block)
    if chain:
        yield chain
