"""What became of blocks like this one: our own policy for prefix trees.

Blocks are of a **kind**: used once, twice, three times, more often; and the last block of a prompt, which the next turn
of a conversation overwrites, apart from those before it. For each kind it learns, from what is read again and after how
long, what a block is worth at every age (`reuse`), also of blocks that were evicted meanwhile. Whatever is worth
least per byte leaves first, so that blocks seen once are on probation wherever that is right, and only there.

Least recently used is right surprisingly often, and what was learnt may be wrong. So the reads are counted that either
way lost to the other: which blocks LRU would hold follows from when each was used last. While LRU is ahead, it decides.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import cast

from cachestore.errors import ConfigError
from cachestore.eviction.past import Past, PrefixRun
from cachestore.eviction.reuse import EDGES, Reuse, bucket
from cachestore.eviction.rival import Rival
from cachestore.eviction.runs import Runs
from cachestore.eviction.waiting import Waiting

_USES = 4
_LAST = _USES
"""Added to a kind for the last block of a prompt."""
_LEARN_AFTER = 2000
"""Blocks put or read from one time that something is learnt to the next, or as many as there are if that is more."""
_RANKED_AFTER = 16
"""One in so many blocks leaves before the leaves are ranked anew."""


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
        # blocks that came and do not wait yet, as their prompt may still be growing
        self._coming = 0
        # the clock when LRU last let go what it would
        self._dropped_at = 0
        self._learn_at = 0
        self._waiting = Waiting(2 * _USES)
        # evicted blocks: the newer half, the older half
        self._newer: dict[Hashable, Past] = {}
        self._older: dict[Hashable, Past] = {}
        self._rival = Rival()
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
            self._coming += 1
        elif name in of:
            self.touch([name])
        else:
            self._insert(name, nbytes, parent)

    def _insert(self, name: Hashable, nbytes: int, parent: Hashable | None) -> None:
        self._clock += 1
        known = self._newer.pop(name, None) or self._older.pop(name, None)
        uses = 1
        if known is not None:
            self._rival.lost += self._ended(known, 1, self._reuse.read)
            self._rival.back += 1
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
        if run.past is None:
            self._coming += 1
        else:
            self._waiting.more(run.past.moment, run.past.kind, 1)

    def touch(self, names: Sequence[Hashable]) -> None:
        self._close()
        self._drop()
        found = self._read(names)
        now = self._clock + len(names)
        for run in found:
            past = self._past(run)
            count = len(run.blocks)
            self._rival.found += count
            self._rival.won += count
            if run.whole:
                self._rival.won -= self._ended(self._tip(past), 1, self._reuse.read)
                run.whole = False
                count -= 1
            self._rival.won -= self._ended(past, count, self._reuse.read)
            run.uses += 1
            run.since = now
            run.past = None
        self._clock = self._dropped_at = now
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
        if self._dropped_at != self._clock:
            self._drop()
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
        worth = self._worths([leaf])[0]
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
        self._coming = 0

    def _drop(self) -> None:
        """LRU has as much room as there is here before any is made for the next prompt."""
        self._dropped_at = self._clock
        self._waiting.drop(max(0, len(self._of) - self._coming))

    def _begin(self, run: PrefixRun) -> Past:
        kind = min(run.uses, _USES) - 1
        moment = self._waiting.begin(run.since, len(self._of), kind, len(run.blocks) - run.whole)
        if run.whole:
            self._waiting.more(moment, kind + _LAST, 1)
        past = run.past = Past(kind, run.uses, run.since, moment)
        return past

    def _tip(self, past: Past) -> Past:
        return Past(past.kind + _LAST, past.uses, past.since, past.moment)

    def _ended(self, past: Past, count: int, table: list[list[float]]) -> int:
        """Blocks wait no more; gives how many of them LRU would hold."""
        table[past.kind][bucket(self._clock - past.since)] += count
        return self._waiting.end(past.moment, past.kind, count)

    def _worths(self, leaves: Sequence[PrefixRun]) -> list[float]:
        """What the last blocks of these runs are worth per byte: the chance of a read, times what it saves."""
        worths: list[float] = []
        clock, deep, table, edges = self._clock, self._settings.deep, self._reuse.worth, EDGES
        for run in leaves:
            past = run.past or self._begin(run)
            since = past.since
            if self._rival.decides:
                worths.append(float(since))
                continue
            age = clock - since
            at = bisect_right(edges, age) - 1
            row = table[past.kind + _LAST if run.whole else past.kind]
            low, start = row[at], edges[at]
            worth = low + (row[at + 1] - low) * (age - start) / (edges[at + 1] - start)
            worths.append(worth * (1 + (run.depth + len(run.blocks)) / deep) / (run.nbytes or 1))
        return worths

    def _rank(self) -> None:
        self._close()
        self._forget()
        if self._clock >= self._learn_at:
            self._learn()
        self._rival.watch(len(self._of))
        inner = self._inner
        leaves = [run for run in self._runs if run.blocks[-1] not in inner]
        self._ranking = [
            (worth, run.since, at, run)
            for at, (worth, run) in enumerate(zip(self._worths(leaves), leaves, strict=True))
        ]
        self._ranking.sort(reverse=True)
        self._left = max(1, len(self._of) // _RANKED_AFTER, len(leaves) // 2)

    def _learn(self) -> None:
        size = len(self._of)
        self._learn_at = self._clock + max(_LEARN_AFTER, size)
        self._reuse.learn(self._waiting.by_age(self._clock))
        self._rival.judge()
