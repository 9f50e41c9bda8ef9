"""Pages that an engine keeps as several runs of its memory: an opaque block each, with a plane for each run.

What is put by run can be read in one piece, and the other way round: a block's planes follow each other. Every call
may wait for the store, up to its time-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cachestore.block import Buffer, OpaqueSpec, PlaneId
from cachestore.hashing import Chain, opaque_chain
from cachestore.integrations.opaque import HELD
from cachestore.store.base import BlockPlan, Store
from cachestore.store.spread import Spread

MOST_KEYS = 4096
"""Keys in one question to the store: an engine may ask for a whole prompt, and its pages may be single tokens."""


CHAINS = 64
"""Batches whose keys are remembered: an engine asks for its pages before it loads them, and again where others did."""


@lru_cache(maxsize=CHAINS)
def _chain(spec: OpaqueSpec, keys: tuple[bytes, ...]) -> Chain:
    return opaque_chain(spec, keys)


@dataclass(frozen=True)
class RunPages:
    """The pages of one engine in `store`, each of `runs` bytes, run by run; safe for use by several threads."""

    store: Store
    spec: OpaqueSpec
    runs: tuple[int, ...]
    timeout: float
    lookup_timeout: float
    planes: tuple[PlaneId, ...] = field(init=False)

    def __post_init__(self) -> None:
        planes = [self.spec.planes(nbytes)[0]._replace(slot=run) for run, nbytes in enumerate(self.runs)]
        object.__setattr__(self, "planes", tuple(planes))

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, all runs together."""
        return sum(self.runs)

    def leading(self, keys: Sequence[bytes]) -> int:
        """How many of the engine's keys, from the first on, can be read."""
        ready = 0
        for start in range(0, len(keys), MOST_KEYS):
            asked = keys[start : start + MOST_KEYS]
            found = self.store.lookup(_chain(self.spec, tuple(asked)), timeout=self.lookup_timeout).ready
            ready += found
            if found < len(asked):
                break
        return ready

    def read(self, keys: Sequence[bytes], into: Sequence[Buffer]) -> int:
        """Reads pages into buffers of `page_bytes` bytes; how many came, from the first on.

        What lies in a buffer of a page that did not come is undefined.
        """
        if not keys:
            return 0
        with self.store.read(_chain(self.spec, tuple(keys)), into=into, timeout=self.timeout) as reading:
            return reading.fill()

    def scatter(self, keys: Sequence[bytes], pages: Sequence[Sequence[Buffer]]) -> int:
        """As `read`, into the runs of each page."""
        if not keys:
            return 0
        with self.store.read(_chain(self.spec, tuple(keys)), into=pages, timeout=self.timeout) as reading:
            return reading.fill()

    def put(self, keys: Sequence[bytes], pages: Sequence[Sequence[Buffer]]) -> list[bool]:
        """Puts pages that the store lacks, each in its runs or in one piece; for each whether the store has it now."""
        if not keys:
            return []
        chain = _chain(self.spec, tuple(keys))
        plans = BlockPlan.alike(chain.keys, 1, self.planes)
        with self.store.put(chain.fingerprint, plans, timeout=self.timeout) as put:
            if isinstance(pages, Spread):
                put.write_whole(pages)
            else:
                # SGLang gives a page in one piece where it copied it
                put.write_whole({number: page[0] if len(page) == 1 else page for number, page in enumerate(pages)})
            put.commit()
            return [answer.status in HELD for answer in put.answers]
