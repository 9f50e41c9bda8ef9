"""The serving loop's side of stores: pages filled by reads, and pages that puts still read from.

All methods are for the loop's thread. Whatever a store cannot do costs computation, and is no error of a request.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

from cachestore.codecs.base import Encoded
from cachestore.deadline import Deadline
from cachestore.engine.background import Background, Then
from cachestore.engine.batch_request import ENGINE
from cachestore.engine.batch_sequence import BatchSequence
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.fetching import Fetching
from cachestore.engine.runner import Runner
from cachestore.engine.slot_put import SlotPut
from cachestore.engine.store_jobs import Fetch, MemoryPut
from cachestore.errors import CacheStoreError
from cachestore.metrics import Counters
from cachestore.store.base import PutStatus, Store
from cachestore.tiers.breaker import Breaker

Share = tuple[BatchSequence, int]
"""A sequence, and how many tokens of it a step computes."""


class BatchStore:
    """Reads and puts of all sequences; `done` gives the loop what is to be done when one ended.

    A store that fails again and again is left alone for a while.

    `counters`: fetches, of which fetches_failed by reason; put_blocks by status, put_blocks_failed by reason, and
    put_blocks_dropped by why: puts under way held too many `pages` already, or the store was left `alone`.
    """

    def __init__(
        self, runner: Runner, settings: BatchSettings, counters: Counters, done: Callable[[Then], None]
    ) -> None:
        self.fetching = Fetching(counters, runner.spec.block_tokens, settings.recompute)
        self._runner = runner
        self._settings = settings
        self._counters = counters
        self._size = runner.spec.block_tokens
        self._reads = Background(settings.io_threads, "engine-read", done)
        self._puts = Background(settings.io_threads, "engine-put", done)
        # what waits for computation, here or elsewhere, must not keep others from a thread
        self._waits = Background(settings.max_batch, "engine-wait", done)
        self._breakers: WeakKeyDictionary[Store, Breaker] = WeakKeyDictionary()
        self._held = 0
        """References that puts have to pages."""

    def close(self) -> None:
        """Waits for what is under way."""
        for threads in (self._reads, self._puts, self._waits):
            threads.close()

    def reuse(self, live: BatchSequence) -> None:
        """Takes the blocks that the engine's pages have, as far as they go on from what the sequence has."""
        first = live.sequence.computed
        self._runner.resume(live.sequence)
        if live.sequence.computed > first:
            live.brought(first, live.sequence.computed, ENGINE)
            live.stored = max(live.stored, live.sequence.named)

    def fetch(self, live: BatchSequence) -> bool:
        """Begins to read the blocks that follow, if there is anything to ask for; whether that comes first.

        With too few pages it comes once there are enough: puts under way hold those that the policy counts on.
        """
        request, sequence = live.request, live.sequence
        first, behind = divmod(sequence.computed, self._size)
        if request.store is None or behind:
            return False
        wait, segments, end = 0.0, None, len(sequence.chain())
        if live.later is None and request.wait and not live.preempted:
            # nobody else writes what is generated here
            wait, end = request.wait, live.prompt_tokens // self._size
        elif live.later is not None:
            live.later = [run._replace(first=max(run.first, first)) for run in live.later if run.end > first]
            segments = live.later[:1]
            end = live.later[0].end if live.later and live.later[0].first == first else first
        if first < end and end - first > self._runner.pool.available:
            return True
        live.later = live.later or []
        if first >= end or not self._breaker(request.store).allows():
            return False
        live.later = live.later[1:]
        self._counters.add("fetches")
        incoming = self._runner.reserve(sequence, end - first)
        job = Fetch(
            request.store, sequence.chain().first(end), first, incoming, self.fetching, lambda: not live.ended,
            self._within(live, self._settings.store_timeout + wait), request.purpose, wait,
            lambda: live.waits, segments,
        )  # fmt: skip
        live.fetching = True
        (self._waits if wait else self._reads).run(job.run, partial(self._came, live, job))
        return True

    def follow(self, plan: Sequence[Share]) -> Callable[[int], None] | None:
        """What is to be told of every slot while the step with this plan computes it; None: nothing."""
        following: list[tuple[SlotPut, BatchSequence, int, int]] = []
        for live, count in plan:
            self._open(live)
            # a block that is rounded is put when it is full
            if live.slot_put is not None and self._runner.rounding is None:
                computed = live.sequence.computed
                first, end = computed // self._size, (computed + count) // self._size
                end = min(end, len(live.slot_put.chain))
                if first < end:
                    following.append((live.slot_put, live, first, end))

        def written(slot: int) -> None:
            mark = self._runner.memory.moves.mark()
            for put, live, first, end in following:
                pages = live.sequence.pages[first:end]
                if slot == 0:
                    self._share(pages)
                    put.held += pages
                put.write(slot, first, pages, mark)

        return written if following else None

    def put(self, live: BatchSequence) -> None:
        """Puts the blocks that have become full."""
        first, end = live.stored, live.sequence.named
        coded, live.sequence.coded = live.sequence.coded, {}
        if live.request.store is None or end <= first:
            return
        live.stored = end
        if live.slot_put is not None:
            if self._runner.rounding is not None:
                self._rounded(live.slot_put, live, range(first, min(end, len(live.slot_put.chain))), coded)
            live.slot_put.commit(first, min(end, len(live.slot_put.chain)))
            if end >= len(live.slot_put.chain):
                self._end(live)
            return
        pages = live.sequence.pages[first:end]
        if self._held + len(pages) > self._settings.put_share * self._runner.pool.pages:
            self._counters.add("put_blocks_dropped", len(pages), why="pages")
            return
        if not self._breaker(live.request.store).allows():
            self._counters.add("put_blocks_dropped", len(pages), why="alone")
            return
        self._share(pages)
        live.puts += 1
        job = MemoryPut(
            live.request.store, self._runner.memory, live.sequence.chain(), first, pages,
            Deadline.after(self._settings.put_timeout),
            {number - first: planes for number, planes in coded.items()},
        )  # fmt: skip
        self._puts.run(job.run, partial(self._kept, live, pages, len(pages)))

    def leave(self, live: BatchSequence) -> None:
        """Gives the sequence's pages back; those a read still fills, when it ends."""
        self._end(live)
        if not live.fetching:
            self._runner.release(live.sequence)

    def _came(self, live: BatchSequence, job: Fetch, result: CacheStoreError | None) -> None:
        live.fetching = False
        first = live.sequence.computed
        self._runner.accept(live.sequence, len(job.tiers))
        for at, tier in enumerate(job.tiers):
            live.brought(first + at * self._size, first + (at + 1) * self._size, tier)
        error = result or job.error
        if not live.ended:
            # whoever left may have left it no time
            self._heard(job.store, error)
        if error is not None:
            self._counters.add("fetches_failed", reason=error.reason)
        live.later = [*job.later, *(live.later or [])]
        live.stored = max(live.stored, live.sequence.named)
        if live.ended:
            self._runner.release(live.sequence)

    def _open(self, live: BatchSequence) -> None:
        """A put that follows the prompt slot by slot, once: what comes after a preemption is put block by block.

        It begins with the blocks that are here already: the store may have let go of some since they were put.
        """
        request, sequence = live.request, live.sequence
        first, whole = sequence.computed // self._size, live.prompt_tokens // self._size
        if not request.by_slot or request.store is None or live.followed:
            return
        live.followed = True
        if not whole:
            live.begin()
            return
        keys, deadline = sequence.chain().first(whole), self._within(live, float("inf"))
        live.slot_put = put = SlotPut(request.store, keys, self._runner.memory, deadline, live.begin)
        live.puts += 1
        if first:
            self._whole(put, dict(enumerate(sequence.pages[: min(first, whole)])))
            put.commit(0, min(first, whole))
        self._waits.run(put.run, partial(self._followed, live, put, whole))
        if first >= whole:
            self._end(live)

    def _whole(self, put: SlotPut, pages: dict[int, int]) -> None:
        held = list(pages.values())
        self._share(held)
        put.held += held
        put.whole(pages)

    def _rounded(
        self, put: SlotPut, live: BatchSequence, blocks: range, coded: Mapping[int, Sequence[Encoded]]
    ) -> None:
        """Blocks that became full, as the recipe stores them; what another rounded first, as it lies in its page."""
        for number in blocks:
            if number in coded:
                put.coded(number, coded[number])
            else:
                self._whole(put, {number: live.sequence.pages[number]})

    def _end(self, live: BatchSequence) -> None:
        if live.slot_put is not None:
            live.slot_put.end()
            live.slot_put = None

    def _followed(
        self, live: BatchSequence, put: SlotPut, blocks: int, result: list[PutStatus] | CacheStoreError
    ) -> None:
        if live.slot_put is put:
            # it ended early, since the store failed
            live.slot_put = None
        self._kept(live, put.held, blocks, result)

    def _kept(
        self, live: BatchSequence, pages: list[int], blocks: int, result: list[PutStatus] | CacheStoreError
    ) -> None:
        self._held -= len(pages)
        self._runner.pool.release(pages)
        if live.request.store is not None:
            self._heard(live.request.store, result if isinstance(result, CacheStoreError) else None)
        if isinstance(result, CacheStoreError):
            self._counters.add("put_blocks_failed", blocks, reason=result.reason)
        else:
            for status in result:
                self._counters.add("put_blocks", status=status.value)
        live.puts -= 1

    def _breaker(self, store: Store) -> Breaker:
        return self._breakers.setdefault(store, Breaker())

    def _heard(self, store: Store, error: CacheStoreError | None) -> None:
        if error is None:
            self._breaker(store).succeeded()
        else:
            self._breaker(store).failed()

    def _share(self, pages: Sequence[int]) -> None:
        self._runner.pool.share(pages)
        self._held += len(pages)

    def _within(self, live: BatchSequence, seconds: float) -> Deadline:
        return Deadline(min(live.request.deadline.at, time.monotonic() + seconds))
