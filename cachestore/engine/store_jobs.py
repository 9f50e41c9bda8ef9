"""What the serving loop asks of a store, for threads that may wait: reading blocks into pages, putting pages."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cachestore.block import BlockSpec, Buffer
from cachestore.codecs.base import Encoded
from cachestore.deadline import Deadline
from cachestore.engine.fetching import Fetching, Segment
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.page_moves import Incoming, Mark
from cachestore.engine.page_writing import write_pages
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.store.base import BlockPlan, Purpose, Put, PutStatus, Store

SLICE = 0.15
"""Seconds of one wait for blocks that are being written: so late may a read learn that nobody wants it any more."""


@dataclass(eq=False)
class Fetch:
    """Reads blocks `first` up to the end of `chain` into the pages `incoming`, as far as that is wise.

    `segments` are the runs to read; None asks the store what there is, and `fetching` which of it to read. With `wait`
    all is read, what is being written too, as long as `waits` says so. After `run`, `tiers` are those of the leading
    blocks that came, in order, and `later` the runs to read once what lies before them was computed. `error` is why the
    store could not go on.
    """

    store: Store
    chain: Chain
    first: int
    incoming: Incoming
    fetching: Fetching
    wanted: Callable[[], bool]
    deadline: Deadline
    purpose: Purpose = Purpose.REUSE
    wait: float = 0.0
    waits: Callable[[], bool] = lambda: True
    segments: list[Segment] | None = None
    tiers: list[str] = field(default_factory=list)
    later: list[Segment] = field(default_factory=list)
    error: CacheStoreError | None = None

    def run(self) -> None:
        """Never raises for what the store cannot do."""
        try:
            self._run()
        except CacheStoreError as error:
            self.error = error

    def _run(self) -> None:
        self.deadline.check("waiting for a thread to read blocks")
        left = self._segments()
        while left and left[0].first == self.first + len(self.tiers) and self.wanted():
            segment = left.pop(0)
            if not self._read(segment):
                break
        at = self.first + len(self.tiers)
        self.later = [segment for segment in left if segment.first > at]

    def _segments(self) -> list[Segment]:
        if self.segments is not None:
            return list(self.segments)
        if self.wait:
            return [Segment(self.first, len(self.chain), "waited")]
        found = self.store.lookup(self.chain.behind(self.first), timeout=self._timeout())
        return self.fetching.decide(found.runs, self.first)

    def _read(self, segment: Segment) -> bool:
        """Whether all of it came."""
        end, begun, before = min(segment.end, len(self.chain)), time.monotonic(), len(self.tiers)
        try:
            while self._go_on(end, begun + self.wait - time.monotonic()):
                pass
        finally:
            came = len(self.tiers) - before
            if not self.wait:
                self.fetching.fetched(segment, came, time.monotonic() - begun)
        return self.first + len(self.tiers) == end

    def _go_on(self, end: int, left: float) -> bool:
        """Reads what there is up to block `end`, and waits for more, but not long; whether to try again."""
        at = self.first + len(self.tiers)
        last = min(end, at + self.incoming.most)
        chain, into = self.chain.first(last).behind(at), self.incoming.into(at - self.first, last - self.first)
        wait = min(SLICE, left) if left > 0 and self.waits() else 0.0
        follows = wait > 0 and not self._copied(chain)
        begun, came = time.monotonic(), list[str]()
        try:
            with self.store.read(
                chain, into=into, wait=wait, provisional=follows, purpose=self.purpose, timeout=self._timeout()
            ) as reading:
                for _ in reading.planes():
                    if not self.wanted():
                        # what the store would now lease and send is for nobody
                        return False
                # planes that ended sooner are all there will be
                waited = time.monotonic() - begun >= wait > 0
                for loaded in reading:
                    self.incoming.came()
                    came.append(loaded.tier)
                    if not self.wanted():
                        break
        finally:
            self.incoming.settle()
            self.tiers += came
        at += len(came)
        return at < end and (waited or at == last) and self.wanted()

    def _copied(self, chain: Chain) -> bool:
        """Whether blocks are waited for and copied once they are published, instead of followed plane by plane.

        That costs the cores which compute them far less, where the store's memory is at hand. What nobody has begun to
        write can only be followed.
        """
        if not self.store.near(timeout=self._timeout()):
            return False
        found = self.store.lookup(chain, timeout=self._timeout())
        return found.writing > 0 or found.ready == len(chain)

    def _timeout(self) -> float:
        return max(self.deadline.remaining(), 1e-3)


@dataclass(eq=False)
class PagePut:
    """Puts whole blocks of `chain` from block `first` on, as they lie in pages."""

    store: Store
    spec: BlockSpec
    chain: Chain
    first: int
    pages: Sequence[Buffer]
    deadline: Deadline

    def run(self) -> list[PutStatus]:
        """What became of each block."""
        keys = self.chain.keys[self.first : self.first + len(self.pages)]
        after = self.chain.keys[self.first - 1] if self.first else None
        with _opened(self.store, self.spec, self.chain.fingerprint, keys, after, self.deadline) as put:
            for number, page in enumerate(self.pages):
                if put.answers[number].status is PutStatus.WANTED:
                    put.write(number, 0, page)
            put.commit()
            return [answer.status for answer in put.answers]


@dataclass(eq=False)
class MemoryPut:
    """Does the same with pages of the engine's memory, on whichever device that is.

    `coded` are the planes of those that are stored otherwise than they lie there, by their number among the pages.
    The engine's thread makes it: the pages are put as what it has launched by then leaves them.
    """

    store: Store
    memory: PageMemory
    chain: Chain
    first: int
    pages: Sequence[int]
    deadline: Deadline
    coded: Mapping[int, Sequence[Encoded]] = field(default_factory=dict)
    mark: Mark = field(init=False)

    def __post_init__(self) -> None:
        self.mark = self.memory.moves.mark()

    def run(self) -> list[PutStatus]:
        """What became of each block."""
        spec, keys = self.memory.spec, self.chain.keys[self.first : self.first + len(self.pages)]
        after = self.chain.keys[self.first - 1] if self.first else None
        with _opened(self.store, spec, self.chain.fingerprint, keys, after, self.deadline) as put:
            for number, planes in self.coded.items():
                put.write_encoded(number, 0, *planes)
            left = {number: page for number, page in enumerate(self.pages) if number not in self.coded}
            write_pages(put, self.memory, range(len(spec.slots)), left, self.mark)
            put.commit()
            return [answer.status for answer in put.answers]


def _opened(
    store: Store, spec: BlockSpec, fingerprint: bytes, keys: Sequence[bytes], after: bytes | None, deadline: Deadline
) -> Put:
    deadline.check("waiting for a thread to put blocks")
    planes = spec.planes()
    plans = [BlockPlan(key, spec.block_tokens, planes) for key in keys]
    timeout = max(deadline.remaining(), 1e-3)
    return store.put(fingerprint, plans, after=after, timeout=timeout)
