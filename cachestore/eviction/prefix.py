"""What became of blocks like this one: our own policy for prefix trees.

Blocks are of a **kind**: used once, twice, three times, more often; and the last block of a prompt, which the next turn
of a conversation overwrites, apart from those before it. For each kind it learns, from what is read again and after how
long, what a block is worth at every age (`reuse`), also of blocks that were evicted meanwhile. Whatever is worth
least per byte leaves first, so that blocks seen once are on probation wherever that is right, and only there.

Least recently used is right surprisingly often, and what was learnt may be wrong. So the reads are counted that either
way lost to the other: which blocks LRU would hold follows from the ages alone. While LRU is ahead, it decides.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np

from cachestore.errors import ConfigError
from cachestore.eviction.reuse import EDGES, Reuse, bucket
from cachestore.eviction.runs import Run, Runs

_USES = 4
_LAST = _USES
"""Added to a kind for the last block of a prompt."""
_LEARN_AFTER = 2000
"""Blocks put or read from one time that something is learnt to the next, or as many as there are if that is more."""
_RANKED_AFTER = 16
"""One in so many blocks leaves before the leaves are ranked anew."""
_LITTLE = 0.01
_KEEP = 0.9
"""What is left of the counts after each time that something is learnt: the rivals are judged by what they do now."""


@dataclass(frozen=True)
class Prefix:
    """Evicts the leaf that is worth least, by what became of blocks of its kind.

    remember: how many evicted blocks are remembered for each one that is there
    deep: a block this deep in its prompt costs twice as much to recompute as the first, for it attends to all before it
    """

    remember: float = 4.0
    deep: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.remember <= 100:
            raise ConfigError(f"eviction.remember = {self.remember} must be between 0 and 100; 4 is usual")
        if self.deep < 1:
            raise ConfigError(f"eviction.deep = {self.deep} must be at least 1 block; 1000 is usual")

    def start(self) -> "PrefixOrder":
        return PrefixOrder(self)


class Past:
    """When blocks were used last, what kind they were then, and where they are counted until they are used again."""

    __slots__ = ("kind", "since", "uses", "waiting")

    def __init__(self, kind: int, uses: int, since: int, waiting: list[int]) -> None:
        self.kind = kind
        self.uses = uses
        self.since = since
        self.waiting = waiting


class PrefixRun(Run):
    """A run, with what is known of it. `past` is unknown while its prompt may still be growing."""

    __slots__ = ("depth", "nbytes", "past", "since", "uses", "whole")

    def __init__(self) -> None:
        super().__init__()
        self.uses = 1
        self.since = 0
        self.depth = 0
        """Blocks before its first."""
        self.nbytes = 0.0
        """Mean size of its blocks."""
        self.whole = True
        """Whether its last block is the last of a prompt, never read."""
        self.past: Past | None = None

    def front(self) -> Self:
        front = super().front()
        front.uses, front.since, front.depth, front.nbytes = self.uses, self.since, self.depth, self.nbytes
        front.whole, front.past = False, self.past
        return front


class PrefixOrder(Runs[PrefixRun]):
    """Runs, what became of those like them, and a ranking of the leaves that is renewed now and then."""

    def __init__(self, settings: Prefix) -> None:
        super().__init__(PrefixRun)
        self._settings = settings
        self._runs: dict[PrefixRun, None] = {}
        self._open: list[PrefixRun] = []
        self._reuse = Reuse(2 * _USES)
        # the clock counts blocks put and read
        self._clock = 0
        self._learn_at = 0
        # blocks not read since, by kind, with the clock when they were used last
        self._waiting: list[tuple[int, list[int]]] = []
        self._now: list[int] = []
        self._now_until = 0
        # evicted blocks: the newer half, the older half
        self._newer: dict[Hashable, Past] = {}
        self._older: dict[Hashable, Past] = {}
        # LRU holds what is younger than this
        self._lru_age = 0
        self._won = self._lost = 0.0
        self._found = self._returned = 0.0
        # how many more times LRU decides, and how many the next time it does
        self._resting = 0
        self._rest = 2
        # the worst one last
        self._ranking: list[tuple[float, int, int, PrefixRun]] = []
        self._left = 0

    def insert(self, name: Hashable, nbytes: int, parent: Hashable | None = None) -> None:
        of, inner = self._of, self._inner
        run = of.get(parent)
        if (
            # the common case, a prompt that grows by a block never seen, in one look
            run is not None
            and run.past is None
            and run.blocks[-1] == parent
            and run.uses == 1
            and run.nbytes == nbytes
            and not (name in of or name in self._newer or name in self._older or name in inner or parent in inner)
        ):
            run.blocks.append(name)
            of[name] = run
            self._clock += 1
        elif name in of:
            self.touch([name])
        else:
            self._insert(name, nbytes, parent)

    def _insert(self, name: Hashable, nbytes: int, parent: Hashable | None) -> None:
        self._clock += 1
        known = self._newer.pop(name, None) or self._older.pop(name, None)
        uses = 1
        if known is not None:
            self._ended(known, 1, self._reuse.read)
            self._returned += 1
            self._lost += self._clock - known.since < self._lru_age
            uses = known.uses + 1
        above = self._of.get(parent)
        if above is not None and above.past is None and above.uses != uses:
            # blocks that come back and new ones behind them have not the same past
            above.fresh = above.whole = False
        run = self._add(name, parent)
        run.nbytes += (nbytes - run.nbytes) / len(run.blocks)
        if len(run.blocks) == 1:
            run.uses = uses
            run.since = self._clock
            above = self._of.get(run.parent)
            run.depth = 0 if above is None else above.depth + len(above.blocks)
            self._runs[run] = None
            self._open.append(run)
        elif run.past is not None:
            run.past.waiting[run.past.kind] += 1

    def touch(self, names: Sequence[Hashable]) -> None:
        self._close()
        found = self._read(names)
        now = self._clock + len(names)
        for run in found:
            past = self._past(run)
            count = len(run.blocks)
            self._found += count
            if self._clock - past.since >= self._lru_age:
                self._won += count
            if run.whole:
                self._ended(self._tip(past), 1, self._reuse.read)
                run.whole = False
                count -= 1
            self._ended(past, count, self._reuse.read)
            run.uses += 1
            run.since = now
            run.past = None
        self._clock = now
        for run in found:
            self._begin(run)

    def remove(self, name: Hashable) -> None:
        self._close()
        run = self._of.get(name)
        if run is None:
            return
        self._ended(self._gone(run, name), 1, self._reuse.lost)
        if (empty := self._cut(name)) is not None:
            del self._runs[empty]

    def evict(self, stays: Callable[[Hashable], bool]) -> Hashable | None:
        renewed = self._left <= 0
        if renewed:
            self._rank()
        while True:
            ranking, inner = self._ranking, self._inner
            while ranking:
                _, since, _, run = ranking[-1]
                if run.blocks and run.since == since:
                    name = run.blocks[-1]
                    if name not in inner and not stays(name):
                        self._left -= 1
                        if run.whole or len(run.blocks) == 1:
                            self._evict_edge(run)
                        else:
                            run.blocks.pop()
                            del self._of[name]
                            self._newer[name] = cast(Past, run.past)
                        return name
                ranking.pop()
            if renewed:
                return None
            self._rank()
            renewed = True

    def _evict_edge(self, run: PrefixRun) -> None:
        """Evicts a block behind which there is one of another worth: the last of a prompt, or the first of a run."""
        name = run.blocks[-1]
        self._newer[name] = self._gone(run, name)
        self._pop(run)
        self._ranking.pop()
        run.whole = False
        leaf: PrefixRun | None = run
        if not run.blocks:
            parent = self._unhang(run)
            del self._runs[run]
            leaf = None if parent in self._inner else self._of.get(parent)
        if leaf is not None:
            self._compare(leaf)

    def _compare(self, leaf: PrefixRun) -> None:
        """Ranks a new leaf if it is to leave next; others wait until all are ranked again."""
        worth = self._worth(leaf)
        if self._ranking and worth <= self._ranking[-1][0]:
            self._ranking.append((worth, leaf.since, -1, leaf))

    def _gone(self, run: PrefixRun, name: Hashable) -> Past:
        """The past of one block of a run, which leaves."""
        past = self._past(run)
        return self._tip(past) if run.whole and run.blocks[-1] == name else past

    def _forget(self) -> None:
        """Half of the evicted blocks that are remembered go at a time, the older half."""
        if len(self._newer) > len(self._of) * self._settings.remember / 2:
            for old, count in Counter(self._older.values()).items():
                self._ended(old, count, self._reuse.lost)
            self._newer, self._older = {}, self._newer

    def _split(self, run: PrefixRun, at: int) -> PrefixRun:
        front = super()._split(run, at)
        run.depth += at
        self._runs[front] = None
        if front.past is None:
            self._open.append(front)
        return front

    def _past(self, run: PrefixRun) -> Past:
        return run.past or self._begin(run)

    def _close(self) -> None:
        """Another prompt begins: what grew until now is complete."""
        for run in self._open:
            if run.past is None and run.blocks:
                self._begin(run)
                if run.blocks[-1] not in self._inner:
                    self._compare(run)
        self._open.clear()

    def _begin(self, run: PrefixRun) -> Past:
        if self._clock >= self._now_until:
            self._now = [0] * (2 * _USES)
            self._waiting.append((self._clock, self._now))
            self._now_until = self._clock + max(16, len(self._of) // 16)
        kind = min(run.uses, _USES) - 1
        past = run.past = Past(kind, run.uses, run.since, self._now)
        self._now[kind] += len(run.blocks) - run.whole
        self._now[kind + _LAST] += run.whole
        return past

    def _tip(self, past: Past) -> Past:
        return Past(past.kind + _LAST, past.uses, past.since, past.waiting)

    def _ended(self, past: Past, count: int, table: list[list[float]]) -> None:
        table[past.kind][bucket(self._clock - past.since)] += count
        past.waiting[past.kind] -= count

    def _worth(self, run: PrefixRun) -> float:
        past = self._past(run)
        if self._resting:
            return past.since
        kind = past.kind + _LAST if run.whole else past.kind
        cost = 1 + (run.depth + len(run.blocks)) / self._settings.deep
        return self._reuse.worth(kind, self._clock - past.since) * cost / max(run.nbytes, 1)

    def _rank(self) -> None:
        self._close()
        self._forget()
        if self._clock >= self._learn_at:
            self._learn()
        inner = self._inner
        leaves = [run for run in self._runs if run.blocks[-1] not in inner]
        self._ranking = [(self._worth(run), run.since, at, run) for at, run in enumerate(leaves)]
        self._ranking.sort(reverse=True)
        self._left = max(1, len(self._of) // _RANKED_AFTER, len(leaves) // 2)

    def _learn(self) -> None:
        size = len(self._of)
        self._learn_at = self._clock + max(_LEARN_AFTER, size)
        self._waiting = [(at, counts) for at, counts in self._waiting if any(counts)]
        self._now_until = 0
        waiting = np.zeros((2 * _USES, len(EDGES)))
        younger, self._lru_age = 0, self._clock
        for at, counts in reversed(self._waiting):
            waiting[:, bucket(self._clock - at)] += counts
            younger += sum(counts)
            if younger >= size:
                self._lru_age = min(self._lru_age, self._clock - at)
        self._reuse.learn(waiting)
        self._trust()

    def _trust(self) -> None:
        """LRU decides while it is ahead, and where hardly anything that left comes back, so that little can be won."""
        if self._resting:
            self._resting -= 1
            self._won = self._lost = 0.0
        elif self._returned < _LITTLE * self._found:
            self._resting = 1
        elif self._lost - self._won > _LITTLE * len(self._of) + 2 * math.sqrt(self._lost + self._won):
            # twice as long each time
            self._resting, self._rest = self._rest, self._rest * 2
        self._won *= _KEEP
        self._lost *= _KEEP
        self._found *= _KEEP
        self._returned *= _KEEP
