"""The serving loop: many requests on one model, in one thread that owns model and pages.

Any thread may submit and abort; what takes time elsewhere, as stores do, happens on other threads while the loop goes
on with whatever can go on.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import fields
from itertools import count
from threading import Condition, Thread

from cachestore.engine.background import Then, clear
from cachestore.engine.batch_request import BatchRequest
from cachestore.engine.batch_sequence import BatchSequence
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.batch_store import BatchStore
from cachestore.engine.batch_stream import BatchStream
from cachestore.engine.batch_turn import BatchTurn
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.runner import Runner, memory_pages
from cachestore.engine.warming import Warming
from cachestore.errors import CacheStoreError, Overloaded, TooLarge, Unavailable
from cachestore.hashing import namespace_id
from cachestore.metrics import Counters, Figure

LOOK = 0.05
"""Seconds between two looks at deadlines while nothing can be computed."""


class BatchLoop:
    """Serves an open `model` between `open` and `close`; `counters` are those of `BatchTurn` and `BatchStore`.

    Besides, requests are those that were taken, and requests_refused the others, by reason.
    """

    def __init__(self, model: PagedModel, settings: BatchSettings) -> None:
        self.counters = Counters()
        self._settings = settings
        self._runner = Runner(model, settings.pages or memory_pages(model, settings.memory))
        self._longest = min(model.max_tokens, self._runner.pool.pages * model.spec.block_tokens - 1)
        self._stores = BatchStore(self._runner, settings, self.counters, self._later)
        self._turn = BatchTurn(self._runner, settings, self.counters, self._stores)
        self._changed = Condition()
        self._inbox: deque[BatchSequence] = deque()
        self._done: deque[Then] = deque()
        self._woken = False
        self.turns = 0
        """How many it made. They go on for as long as it has requests, unless it hangs."""
        self._open = False
        self._numbers = count()
        self._thread = Thread(target=self._run, name="engine-loop", daemon=True)

    def open(self) -> None:
        """Begins to serve, once all kernels are compiled that it takes; once."""
        Warming(self._runner, self._settings.chunk_tokens, self._settings.max_batch).run()
        self._open = True
        self._thread.start()

    def close(self) -> None:
        """Ends every request as Unavailable, and waits for the step, reads and puts under way. Twice is allowed."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._stores.close()

    def submit(self, request: BatchRequest) -> BatchStream:
        """Takes a request. InvalidArgument for what the model cannot do, TooLarge for more than it or the pages hold.

        Overloaded if `max_waiting` requests wait, Unavailable if the loop does not run.
        """
        try:
            live = self._live(request)
            with self._changed:
                if not self._open:
                    raise Unavailable("the engine is not open")
                waiting = len(self._turn.waiting) + len(self._inbox)
                if waiting >= self._settings.max_waiting:
                    raise Overloaded(f"{waiting} requests wait already; try again later or elsewhere")
                self._inbox.append(live)
                self._changed.notify_all()
        except CacheStoreError as error:
            self.counters.add("requests_refused", reason=error.reason)
            raise
        self.counters.add("requests")
        return live.stream

    def cached(self, namespace: str, keys: Sequence[bytes]) -> int:
        """How many leading blocks of a chain the engine's pages have now. Changes nothing; any thread may ask."""
        return self._runner.pool.match(namespace_id(namespace), keys)

    @property
    def lost(self) -> bool:
        """Whether the device was lost: every step fails, and only another process can compute on it."""
        return self._turn.lost

    def figures(self) -> list[Figure]:
        """Every figure counted, and how things are now: waiting, running, pages, how wrong predictions were."""
        pool, turn = self._runner.pool, self._turn
        now = {
            "waiting": len(turn.waiting) + len(self._inbox),
            "running": len(turn.running),
            "pages": pool.pages,
            "pages_free": pool.free,
            "pages_cached": pool.cached,
            "pages_referenced": pool.referenced,
        }
        errors = {f"predicted_{each.name}": getattr(turn.errors, each.name) for each in fields(turn.errors)}
        gauges = [Figure(name, (), value) for name, value in (now | errors).items()]
        return sorted([*self.counters.figures(), *pool.counters.figures(), *gauges])

    def _live(self, request: BatchRequest) -> BatchSequence:
        """All that can be done for a request outside the loop."""
        sequence = self._runner.start(
            request.tokens, namespace=namespace_id(request.namespace), extras=request.extras, reuse=False
        )
        room = self._longest - len(request.tokens)
        if room < 0:
            raise TooLarge(f"tokens: the prompt has {len(request.tokens)} tokens, the engine holds {self._longest}")
        sequence.chain()
        # the last token of all needs no KV, so one more fits
        longest = min(request.stop.max_tokens, room + 1)
        if request.first is not None:
            request.first.listen(self._wake)
        return BatchSequence(next(self._numbers), request, BatchStream(request.deadline, self._wake), sequence, longest)

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _later(self, then: Then) -> None:
        self._done.append(then)
        self._wake()

    def _run(self) -> None:
        with self._runner.memory.moves.here():
            self._serve()

    def _serve(self) -> None:
        stepped = False
        while self._wait(stepped):
            try:
                stepped = self._once()
            except Exception as error:
                stepped = False
                self._turn.end_all(clear(error, "a turn of the engine"))
        self._close()

    def _wait(self, stepped: bool) -> bool:
        """Until there is something to do; whether the loop goes on."""
        with self._changed:
            if self._open and not (stepped or self._woken or self._inbox):
                idle = not (self._turn.waiting or self._turn.running or self._turn.settling)
                self._changed.wait(None if idle else LOOK)
            self._woken = False
            return self._open

    def _once(self) -> bool:
        self.turns += 1
        while self._done:
            self._done.popleft()()
        while self._inbox:
            self._turn.add(self._inbox.popleft())
        return self._turn.turn()

    def _close(self) -> None:
        error = Unavailable("the engine is closing")
        while self._inbox:
            self._inbox.popleft().stream.give(error)
        self._turn.end_all(error)
        self._stores.close()
        while self._done:
            self._done.popleft()()
        self._turn.settle()
