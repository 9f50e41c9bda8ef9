"""One turn of the serving loop: who starts, who makes room, what the step computes, who has ended."""

import time
from collections.abc import Hashable, Iterator

from cachestore.engine.background import clear
from cachestore.engine.batch_sequence import COMPUTED, BatchSequence
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.batch_store import BatchStore, Share
from cachestore.engine.drawing import Drawn, draw
from cachestore.engine.page_pool import Name
from cachestore.engine.runner import Runner
from cachestore.engine.stopping import Finish
from cachestore.errors import CacheStoreError, InternalError, InvalidArgument, TooLarge
from cachestore.metrics import Counters
from cachestore.scheduling.compose import compose
from cachestore.scheduling.predictor import PredictionErrors

SPOILED = (
    "the model computed no numbers for the next token of this sequence (its logits are NaN or infinite); others go on. "
    "If it does so again its numbers are too large for engine.dtype: use float32, or bfloat16 in place of float16"
)


class BatchTurn:
    """The sequences that wait and those that run. All methods are for the loop's thread.

    `counters`, of requests that ended: requests_done by finish, requests_failed by reason; prompt_tokens =
    computed_tokens + reused_tokens over all tiers, for what of their prompts came to be here; after preemptions
    recomputed_tokens and restored_tokens by tier; generated_tokens. Besides steps, step_tokens and preempted, and
    sequences_spoiled, which failed because the model computed no numbers.
    """

    def __init__(self, runner: Runner, settings: BatchSettings, counters: Counters, stores: BatchStore) -> None:
        scheduling, prediction = compose(settings.scheduling)
        self.waiting: dict[Hashable, BatchSequence] = {}
        self.running: dict[Hashable, BatchSequence] = {}
        self.settling: dict[Hashable, BatchSequence] = {}
        self.errors = PredictionErrors()
        self.lost = False
        """Whether the device was lost in a step."""
        self._runner = runner
        self._settings = settings
        self._counters = counters
        self._stores = stores
        self._size = runner.spec.block_tokens
        self._share = runner.most(0, settings.chunk_tokens)
        self._queue = scheduling.start(self._size)
        self._predictor = prediction.start()

    def add(self, live: BatchSequence) -> None:
        """A new request."""
        self.waiting[live.number] = live
        live.guessed = live.predicted = self._predictor.predict(live.asked)
        self._queue.add(live.demand(self._share))

    def turn(self) -> bool:
        """Does one step, if any sequence can go on now; whether it did."""
        for live in self._all():
            self._look(live)
        self.settle()
        self._schedule()
        plan = self._plan()
        if plan:
            self._step(plan)
        return bool(plan)

    def settle(self) -> None:
        """The usage of those that ended and whose puts have ended too."""
        for live in [*self.settling.values()]:
            live.progress()
            if live.owed is not None and not live.puts:
                live.stream.give(live.owed)
                del self.settling[live.number]

    def end_all(self, error: CacheStoreError) -> None:
        """Every sequence ends with this error."""
        for live in self._all():
            self.end(live, error)

    def end(self, live: BatchSequence, how: CacheStoreError | Finish) -> None:
        """A sequence ends; its pages are free at once, unless a read still fills them."""
        self.waiting.pop(live.number, None)
        self.running.pop(live.number, None)
        self._queue.remove(live.number)
        live.ended = True
        self._stores.leave(live)
        self._count(live)
        if isinstance(how, CacheStoreError):
            self._counters.add("requests_failed", reason=how.reason)
            live.stream.give(how)
            return
        self._counters.add("requests_done", finish=how.value)
        self._predictor.finished(live.asked, live.generated)
        self.errors.add(live.guessed, live.generated)
        usage = live.usage(how)
        if live.request.settle and live.puts:
            live.owed = usage
            self.settling[live.number] = live
        else:
            live.stream.give(usage)

    def _look(self, live: BatchSequence) -> None:
        """What became of a sequence since the last turn, outside of it."""
        error = live.over()
        if error is not None:
            self.end(live, error)
        elif live.stream.finished:
            self.end(live, Finish.STOP)
        elif live.told is not None:
            self._tell(live, live.told)
        else:
            live.progress()

    def _tell(self, live: BatchSequence, told: Drawn) -> None:
        """Another engine drew its first token."""
        vocabulary = self._runner.model.vocabulary
        if not 0 <= told.token < vocabulary:
            self.end(live, InvalidArgument(f"first: a token must lie in 0 .. {vocabulary - 1}, got {told.token}"))
            return
        self._take(live, told)
        if live.number in self.waiting:
            self._queue.remove(live.number)
            self._queue.add(live.demand(self._share))

    def _all(self) -> list[BatchSequence]:
        return [*self.waiting.values(), *self.running.values()]

    def _schedule(self) -> None:
        """Preempts and starts as the policy says."""
        running = [live.demand(self._share) for live in self.running.values()]
        plan = self._queue.plan(running, self._runner.pool.pages, self._settings.max_batch)
        for live in [live for live in self._all() if live.number in plan.refuse]:
            self.end(live, TooLarge(f"{len(live.sequence.tokens)} tokens are more than the engine's pages hold"))
        for name in plan.preempt:
            # one that a read fills makes room when that ends, if it still has to
            if not self.running[name].fetching:
                self._preempt(self.running.pop(name))
        for name in plan.start:
            self.running[name] = self.waiting.pop(name)

    def _preempt(self, live: BatchSequence) -> None:
        """Its blocks are in the store, or on their way; it comes back by its prefix."""
        self._counters.add("preempted")
        live.preempted += 1
        live.later = None
        self._stores.leave(live)
        self.waiting[live.number] = live
        self._queue.add(live.demand(self._share))

    def _plan(self) -> list[Share]:
        """One token of each that decodes, and chunks of prompts, as far as there are pages.

        Puts under way, and reads for sequences that ended, may hold some of those that the policy counts on; whoever
        lacks one waits until they end.
        """
        decoding = [live for live in self.running.values() if live.sequence.pending == 1 and not live.fetching]
        prefilling = list(self._prefilling())
        left, chunk, plan = self._runner.pool.available, self._settings.chunk_tokens, list[Share]()
        for live in [*decoding, *prefilling]:
            count = 1 if live.sequence.pending == 1 else self._piece(live, chunk)
            if live.awaits:
                # all but the last token, behind which the one to be told stands
                count = min(count, live.sequence.pending - 1)
            wanted = self._runner.wanted([(live.sequence, count)])
            if count and wanted <= left:
                left -= wanted
                chunk -= count if live.sequence.pending > 1 else 0
                plan.append((live, count))
        return plan

    def _prefilling(self) -> Iterator[BatchSequence]:
        """Those with a prompt to compute now: no block is read or computed twice at a time."""
        running = list(self.running.values())
        claimed: set[Name | None] = {live.next_block() for live in running if live.fetching}
        for live in running:
            if live.fetching or live.sequence.pending == 1:
                continue
            self._stores.reuse(live)
            block = live.next_block()
            if block is not None and block in claimed and not live.sequence.computed % self._size:
                continue
            claimed.add(block)
            if not self._stores.fetch(live):
                yield live

    def _piece(self, live: BatchSequence, chunk: int) -> int:
        """How many of its tokens, `chunk` at most, come next: up to the end of a block, unless that is too far."""
        computed, pending = live.sequence.computed, live.sequence.pending
        count = min(pending, chunk)
        if live.later:
            count = min(count, live.later[0].first * self._size - computed)
        count = self._runner.most(computed, count)
        whole = (computed + count) // self._size * self._size - computed
        return whole if whole > 0 and count < pending else count

    def _step(self, plan: list[Share]) -> None:
        begun = time.monotonic()
        lives = {id(live.sequence): live for live, _ in plan}
        before = [live.sequence.computed for live, _ in plan]
        try:
            stepped = self._runner.step([(live.sequence, count) for live, count in plan], self._stores.follow(plan))
            ready = [lives[id(sequence)] for sequence in stepped.sequences]
            drawn = draw(stepped.logits, [live.draw() for live in ready])
            # without a draw a device may only have begun, and what a step takes would not be known
            self._runner.memory.moves.mark().synchronize()
        except Exception as error:
            how = clear(error, "the step that computed this sequence")
            self.lost = self._runner.memory.moves.lost()
            for live, _ in plan:
                self.end(live, how)
            return
        self._counters.add("steps")
        self._counters.add("step_tokens", sum(count for _, count in plan))
        prompts = sum(count for _, count in plan if count > 1)
        if prompts:
            self._stores.fetching.computed(prompts, time.monotonic() - begun)
        for (live, _), first in zip(plan, before, strict=True):
            live.brought(first, live.sequence.computed, COMPUTED)
        for live, token in zip(ready, drawn, strict=True):
            if token is None:
                self._spoiled(live)
        for live, _ in plan:
            if not live.ended:
                self._stores.put(live)
        for live, token in zip(ready, drawn, strict=True):
            if token is not None:
                self._take(live, token)

    def _spoiled(self, live: BatchSequence) -> None:
        """What was computed of it are no numbers: it alone ends, and nobody goes on from its pages."""
        self._counters.add("sequences_spoiled")
        self._runner.pool.unname(live.sequence.pages)
        self.end(live, InternalError(SPOILED))

    def _take(self, live: BatchSequence, drawn: Drawn) -> None:
        """Its next token is known."""
        try:
            live.add(drawn)
        except Exception as error:
            # text is made by the caller's tokenizer
            self.end(live, clear(error, "making text of this sequence"))
            return
        if live.stopping.finish is not None:
            self.end(live, live.stopping.finish)
        elif live.generated >= live.predicted:
            live.predicted = self._predictor.predict(live.asked, live.generated)

    def _count(self, live: BatchSequence) -> None:
        add = self._counters.add
        add("prompt_tokens", live.came.total())
        add("computed_tokens", live.came[COMPUTED])
        add("recomputed_tokens", live.again[COMPUTED])
        add("generated_tokens", live.generated)
        for tier, tokens in live.came.items():
            if tier != COMPUTED:
                add("reused_tokens", tokens, tier=tier, purpose=live.request.purpose.value)
        for tier, tokens in live.again.items():
            if tier != COMPUTED:
                add("restored_tokens", tokens, tier=tier)
