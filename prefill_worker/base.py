"""What a worker works with, whichever it is."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachestore.engine.batch_request import BatchRequest, BatchToken
from cachestore.engine.stopping import Stop
from cachestore.errors import CacheStoreError
from cachestore.metrics import Counters, Figure
from cachestore.service.auth.identity import Identity
from cachestore.store.base import Lease
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff
from prefill_worker.prompt import Prompt
from prefill_worker.running import Running
from prefill_worker.stores import Stores
from prefill_worker.token import Reuse, Token

if TYPE_CHECKING:
    from cachestore.engine.batch_loop import BatchLoop
    from cachestore.engine.paged_model import PagedModel

HANGS = 30.0
"""Seconds that a step never takes."""

RELEASE_TIMEOUT = 2.0
"""Seconds a store may take to end a lease; then it ends by itself."""


@dataclass(eq=False)
class Worker:
    """An open `model`, the open `loop` that computes with it, and the stores it uses for whoever a call is for.

    At most `limit` requests are under way. Figures are those of the loop, and beside them what the worker counts
    itself: requests that never came to the loop are `requests_refused` too, and `left_to_expire` are leases that could
    not be released.
    """

    model: "PagedModel"
    loop: "BatchLoop"
    stores: Stores
    limit: int
    running: Running = field(init=False)
    _turns: tuple[int, float] = field(init=False, default=(-1, 0.0))

    def __post_init__(self) -> None:
        self.running = Running(self.limit, self.counters)

    @property
    def counters(self) -> Counters:
        """The loop's, so that there is one of each."""
        return self.loop.counters

    @property
    def queue(self) -> int:
        """Requests that wait or run in the loop."""
        return sum(figure.value for figure in self.loop.figures() if figure.name in ("waiting", "running"))

    @property
    def healthy(self) -> bool:
        """Whether the loop goes on, and its device: asked now and then, it finds out if no turn was made for `HANGS`
        seconds."""
        turns, now = self.loop.turns, time.monotonic()
        if turns != self._turns[0] or not self.queue:
            self._turns = turns, now
        return now - self._turns[1] < HANGS and not self.loop.lost

    def figures(self) -> list[Figure]:
        """Every figure, and `queue`."""
        return sorted([*self.loop.figures(), Figure("queue", (), self.queue)])

    def close(self) -> None:
        """Lets go of what the worker itself holds. Closing twice is allowed."""
        self.stores.close()

    def asked(self, prompt: Prompt, stop: Stop, call: Call, **more: Any) -> BatchRequest:
        """What the loop is asked for."""
        return BatchRequest(
            prompt.tokens, stop, call.deadline, prompt.sampling, namespace=call.caller.namespace, extras=prompt.extras,
            settle=True, **more,
        )  # fmt: skip

    def release(self, caller: Identity, handoff: Handoff, store: str = "") -> None:
        """Ends the lease of a handoff for `caller` in the store at `store`, by default the own."""
        if not handoff.lease:
            return
        try:
            with self.stores.of(caller, store) as leased_in:
                leased_in.release(Lease(handoff.lease, handoff.blocks, 0.0), timeout=RELEASE_TIMEOUT)
        except CacheStoreError as error:
            self.counters.add("left_to_expire", reason=error.reason)


def token(made: BatchToken, reuse: Reuse | None) -> Token:
    """A token of the loop's as workers tell it."""
    return Token(made.id, made.index, reuse if not made.index else None, made.logprob, made.top)
