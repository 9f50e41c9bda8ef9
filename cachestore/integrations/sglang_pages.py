"""Pages that an engine keeps as several runs of its memory: an opaque block each, with a plane for each run.

What is put by run can be read in one piece, and the other way round: a block's planes follow each other. Every call
may wait for the store, up to its time-out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cachestore.block import Buffer, OpaqueSpec, Part, PlaneId
from cachestore.hashing import opaque_chain
from cachestore.integrations.opaque import HELD
from cachestore.store.base import BlockPlan, PutStatus, Store

MOST_KEYS = 4096
"""Keys in one question to the store: an engine may ask for a whole prompt, and its pages may be single tokens."""

BY_PLANE = 256 << 10
"""Runs of so many bytes are read plane by plane: to ask once for each costs less than to copy them twice."""


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
            found = self.store.lookup(opaque_chain(self.spec, asked), timeout=self.lookup_timeout).ready
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
        with self.store.read(opaque_chain(self.spec, keys), into=into, timeout=self.timeout) as reading:
            return sum(1 for _ in reading)

    def scatter(self, keys: Sequence[bytes], pages: Sequence[Sequence[Buffer]]) -> int:
        """As `read`, into the runs of each page."""
        if len(self.runs) == 1:
            return self.read(keys, [run for (run,) in pages])
        if not keys:
            return 0
        return self._by_plane(keys, pages) if min(self.runs) >= BY_PLANE else self._by_block(keys, pages)

    def put(self, keys: Sequence[bytes], pages: Sequence[Sequence[Buffer]]) -> list[bool]:
        """Puts pages that the store lacks, each in its runs or in one piece; for each whether the store has it now."""
        if not keys:
            return []
        chain = opaque_chain(self.spec, keys)
        plans = [BlockPlan(key, 1, self.planes) for key in chain.keys]
        with self.store.put(chain.fingerprint, plans, timeout=self.timeout) as put:
            for answer, page in zip(put.answers, pages, strict=True):
                if answer.status is PutStatus.WANTED:
                    for plane, run in enumerate(page):
                        put.write(answer.block, plane, run)
            put.commit()
            return [answer.status in HELD for answer in put.answers]

    def _by_block(self, keys: Sequence[bytes], pages: Sequence[Sequence[Buffer]]) -> int:
        """The blocks into memory of the reading's own, and on from there while the processor's cache has them."""
        came = 0
        with self.store.read(opaque_chain(self.spec, keys), timeout=self.timeout) as reading:
            for loaded, page in zip(reading, pages, strict=False):
                if loaded.block.planes != self.planes:
                    break
                for plane, run in enumerate(page):
                    np.copyto(run, loaded.block.data[plane])
                came += 1
        return came

    def _by_plane(self, keys: Sequence[bytes], pages: Sequence[Sequence[Buffer]]) -> int:
        """One plane of all blocks after the other, straight to where it belongs."""
        came = len(keys)
        for plane in range(len(self.runs)):
            if not came:
                break
            chain, into = opaque_chain(self.spec, keys[:came]), [page[plane] for page in pages[:came]]
            part = Part(slots=range(plane, plane + 1))
            with self.store.read(chain, part=part, into=into, timeout=self.timeout) as reading:
                came = sum(1 for _ in reading)
        return came
