"""What a mirror knows of one life of a store: which tier has which keys. Asked by many threads, fed by one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from cachestore.hashing import Chain
from cachestore.store.base import Lookup, Run
from cachestore.store.runs import runs_of

_NOTHING: set[bytes] = set()


@dataclass(eq=False)
class View:
    """The keys in each of the `tiers`, in the order in which they are asked, memory first, on the node `node`.

    Of more than `most` keys the rest is not remembered, which costs misses. `fingerprint` narrows it to one spec, as
    far as tiers tell the spec of a block.
    """

    epoch: int
    tiers: Sequence[str]
    node: str
    most: int
    fingerprint: bytes = b""
    _memory: dict[bytes, set[bytes]] = field(default_factory=dict)
    _lower: dict[str, set[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lower = {tier: set() for tier in self.tiers[1:]}

    def __len__(self) -> int:
        return sum(map(len, (*self._memory.values(), *self._lower.values())))

    def stored(self, tier: str, fingerprint: bytes, keys: Iterable[bytes]) -> None:
        """Blocks are in this tier."""
        held = self._held(tier, fingerprint)
        if held is not None and len(self) < self.most:
            held.update(keys)

    def removed(self, tier: str, fingerprint: bytes, keys: Iterable[bytes]) -> None:
        """Blocks are not in this tier any more."""
        held = self._held(tier, fingerprint)
        if held is not None:
            held.difference_update(keys)
            if not held and tier == self.tiers[0]:
                del self._memory[fingerprint]

    def cleared(self, tier: str) -> None:
        """No block is in this tier."""
        for held in self._memory.values() if tier == self.tiers[0] else [self._lower.get(tier, set())]:
            held.clear()

    def forget(self, keys: Sequence[bytes]) -> bool:
        """Whoever went by this view found that these blocks are nowhere; whether it had any of them."""
        before = len(self)
        for held in (*list(self._memory.values()), *self._lower.values()):
            held.difference_update(keys)
        return len(self) != before

    def lookup(self, chain: Chain) -> Lookup:
        """What the store would answer, as far as it is known here."""
        ready = self._memory.get(chain.fingerprint, _NOTHING)
        memory, asked = self.tiers[0], list(chain.keys)
        # a thousand keys in a loop that the interpreter does not see
        count = len(list(takewhile(ready.__contains__, asked)))
        if count == len(asked) or not any(asked[count] in held for held in self._lower.values()):
            return Lookup(count, (Run(count, memory, self.node),) if count else ())
        missing = []
        for position, key in enumerate(asked[count:], count):
            if key in ready:
                continue
            if any(key in held for held in list(self._memory.values())):
                # under another spec: whatever lies behind it is out of reach
                del asked[position:]
                break
            missing.append(key)
        found: dict[bytes, str] = {}
        for tier, held in self._lower.items():
            left = [key for key in missing if key not in found]
            found.update(dict.fromkeys(takewhile(held.__contains__, left), tier))
        absent = set(missing)
        leading = takewhile(lambda key: key not in absent or key in found, asked)
        runs = runs_of([found.get(key, memory) for key in leading], self.node)
        return Lookup(sum(run.blocks for run in runs), runs)

    def _held(self, tier: str, fingerprint: bytes) -> set[bytes] | None:
        if tier != self.tiers[0]:
            return self._lower.get(tier)
        if self.fingerprint and fingerprint != self.fingerprint:
            return None
        return self._memory.setdefault(fingerprint, set())
