"""Following blocks while they are written: which planes came, in the order of their put, and how each block ended.

Every put keeps a journal of what it wrote. A follower of some keys is led to the journals of the blocks that are open
under them, now or later, and reads on where it was; the writer only sets its flag, and does nothing if nobody follows.
A writer in another process does not even that: whoever follows it looks, again and again.
Nothing here protects a slot: whoever copies from one asks afterwards whether it still was its block's.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, PlaneId
from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.store.granting import locate
from cachestore.store.laying import OpenBlock

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore
    from cachestore.tiers.base import ColdTier

LOOKS = (0.5e-3, 4e-3)
"""The shortest and the longest time between two looks at what a writer in another process has laid, in seconds."""

PATIENCE = 16
"""Between two looks passes this part of the time since the last plane came: who waits long waits at little cost."""


class Began(NamedTuple):
    """Block `number` of the chain is being written and has these planes; what came of it before is void."""

    number: int
    planes: tuple[PlaneId, ...]


class Wrote(NamedTuple):
    """Planes of a block came, in this order; each range at once, as `OpenBlock.stored` wants it."""

    number: int
    block: OpenBlock
    runs: Sequence[range]


class Ended(NamedTuple):
    """A block is published, or was given up and its planes are void."""

    number: int
    published: bool


@dataclass(eq=False)
class Journal:
    """What one put wrote, in order, as key and planes written at once; `followers` hear of it.

    With `look` there is more to write down only when somebody calls that: the writer is another process.
    """

    written: list[tuple[bytes, range]] = field(default_factory=list)
    followers: tuple[Following, ...] = ()
    look: Callable[[], None] | None = None

    def add(self, key: bytes, planes: range) -> None:
        """These planes of a block lie in its slot and will not change."""
        self.written.append((key, planes))
        for follower in self.followers:
            follower.wake()


class _Opened(NamedTuple):
    key: bytes
    journal: Journal
    block: OpenBlock


class _Closed(NamedTuple):
    key: bytes
    published: bool


@dataclass(eq=False)
class Journals:
    """The journals of the blocks that are open, and who follows which names. Callers hold the index's lock."""

    _open: dict[Name, _Opened] = field(default_factory=dict)
    _followers: dict[Name, list[Following]] = field(default_factory=dict)

    @property
    def quiet(self) -> bool:
        """Whether no block is open and nothing is followed."""
        return not self._open and not self._followers

    def open(self, name: Name) -> OpenBlock | None:
        """The open block of this name."""
        opened = self._open.get(name)
        return opened.block if opened is not None else None

    def opened(self, block: OpenBlock, journal: Journal) -> None:
        """A block was reserved, and what comes of it will stand in `journal`."""
        name = block.entry.name
        self._open[name] = opened = _Opened(name.key, journal, block)
        for follower in self._followers.get(name, ()):
            self._lead(follower, opened)

    def closed(self, block: OpenBlock, *, published: bool) -> None:
        """An open block was published or given up."""
        name = block.entry.name
        opened = self._open.pop(name)
        for follower in opened.journal.followers:
            if follower in self._followers.get(name, ()):
                follower.hear(_Closed(name.key, published))

    def follow(self, follower: Following, names: Sequence[Name]) -> None:
        """From now on `follower` hears of the blocks of these names."""
        for name in names:
            self._followers.setdefault(name, []).append(follower)
            if name in self._open:
                self._lead(follower, self._open[name])

    def leave(self, follower: Following, names: Sequence[Name]) -> None:
        """It hears of nothing any more."""
        for name in names:
            followers = self._followers[name]
            followers.remove(follower)
            if not followers:
                del self._followers[name]
        for journal in follower.journals:
            journal.followers = tuple(other for other in journal.followers if other is not follower)

    def _lead(self, follower: Following, opened: _Opened) -> None:
        if opened.block.entry.fingerprint != follower.chain.fingerprint:
            return
        if opened.journal not in follower.journals:
            follower.journals.add(opened.journal)
            opened.journal.followers = (*opened.journal.followers, follower)
        follower.hear(opened)


@dataclass(eq=False)
class Following:
    """One reader of `chain` who waits until `until` for what of it is being written.

    It ends when every block that was being written is published or given up. If none is, it waits for the first one;
    if nothing is missing, in memory and `tiers`, it ends at once.
    """

    tiered: TieredStore
    namespace: bytes
    chain: Chain
    until: Deadline
    tiers: Sequence[ColdTier]
    over: bool = False
    journals: set[Journal] = field(default_factory=set)
    """Those that tell it of what is written. Under the index's lock."""
    _news: deque[_Opened | _Closed] = field(default_factory=deque)
    _flag: Event = field(default_factory=Event)
    _open: dict[bytes, _Opened] = field(default_factory=dict)
    _read: dict[Journal, int] = field(default_factory=dict)
    """How far each journal was read."""
    _numbers: dict[bytes, int] = field(default_factory=dict)
    _came: float = field(default_factory=time.monotonic)
    """When there was something new, in monotonic seconds."""

    def wake(self) -> None:
        """There is something new."""
        self._flag.set()

    def hear(self, news: _Opened | _Closed) -> None:
        """A block was opened or closed."""
        self._news.append(news)
        self._flag.set()

    def end(self) -> None:
        """Ends the following, also while it waits in another thread."""
        self.over = True
        self._flag.set()

    def __iter__(self) -> Generator[Began | Wrote | Ended, None, None]:
        index, journals = self.tiered.index, self.tiered.journals
        with index.changed:
            ready = index.ready(self.namespace, self.chain.fingerprint)
            self._numbers = {key: number for number, key in enumerate(self.chain.keys) if key not in ready}
            names = [Name(self.namespace, key) for key in self._numbers]
            journals.follow(self, names)
        try:
            yield from self._heard()
        finally:
            with index.changed:
                journals.leave(self, names)

    def _heard(self) -> Iterator[Began | Wrote | Ended]:
        if not self._news and self.until.remaining() and self._nothing_missing():
            return
        while not self.over and self.until.remaining():
            self._flag.clear()
            yield from self._new()
            if self._read and not self._open and not self._news:
                return
            self._wait()

    def _wait(self) -> None:
        looks = {opened.journal.look for opened in self._open.values()} - {None}
        for look in filter(None, looks):
            look()
        shortest, longest = LOOKS
        now = time.monotonic()
        pause = min(max(shortest, (now - self._came) / PATIENCE), longest) if looks else math.inf
        if self._flag.wait(min(pause, self.until.remaining())):
            self._came = time.monotonic()

    def _nothing_missing(self) -> bool:
        runs = locate(self.tiered, self.namespace, self.chain, self.until, self.tiers)
        return sum(run.blocks for run in runs) == len(self.chain)

    def _new(self) -> Iterator[Began | Wrote | Ended]:
        published: set[bytes] = set()
        while self._news:
            news = self._news.popleft()
            number = self._numbers[news.key]
            if isinstance(news, _Opened):
                published.discard(news.key)
                self._open[news.key] = news
                self._read.setdefault(news.journal, 0)
                yield Began(number, news.block.layout.planes)
            elif news.published:
                # what it wrote before comes first
                published.add(news.key)
            else:
                del self._open[news.key]
                yield Ended(number, published=False)
        for journal in self._read:
            yield from self._written(journal)
        for key in published:
            del self._open[key]
            yield Ended(self._numbers[key], published=True)

    def _written(self, journal: Journal) -> Iterator[Wrote]:
        items = journal.written[self._read[journal] :]
        self._read[journal] += len(items)
        gathered: list[range] = []
        for at, (key, planes) in enumerate(items):
            opened = self._open.get(key)
            if opened is None or opened.journal is not journal:
                continue
            gathered.append(planes)
            if at + 1 == len(items) or items[at + 1][0] != key:
                yield Wrote(self._numbers[key], opened.block, gathered)
                gathered = []


class Sight(NamedTuple):
    """Where the planes of a block lie now; what was copied holds only if it is still `current` afterwards."""

    payload: Buffer
    words: NDArray[np.uint64]
    word: int
    generation: int

    @property
    def current(self) -> bool:
        """Whether the memory was the block's all the time."""
        return int(self.words[self.word]) == self.generation


def sight(tiered: TieredStore, block: OpenBlock) -> Sight | None:
    """Where its planes are; None if they are gone. A block may be moved, so a sight that is not current any more is no
    reason to believe that."""
    with tiered.index.changed:
        slot = block.entry.slot
        if block.entry.gone or not slot.live:
            return None
        return Sight(slot.bytes[block.layout.start :], slot.slab.words, slot.offset // 8, slot.generation)
