"""A prompt that a prefill worker computes for a request here, followed until nothing of it is left there."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event, Thread

from cachestore.deadline import Deadline
from cachestore.engine.background import clear
from cachestore.engine.first_token import FirstToken
from cachestore.errors import CacheStoreError, DeadlineExceeded, Mismatch, Unavailable
from cachestore.store.base import Store
from prefill_worker.client import Prefilling
from prefill_worker.handoff import Begun, Handoff
from prefill_worker.token import Token


@dataclass(eq=False)
class Handed:
    """What the prefill worker `by` tells of a prompt of so many `tokens` and full `blocks`, to be heard on a thread of
    its own.

    From `begun` on the blocks can be waited for in the store at `store`, and `first` tells the engine here what comes.
    If the worker fails, falls silent, is too slow for the request's `deadline` or tells a token beyond the
    `vocabulary`, `failed` is told, and the engine waits no longer. The lease goes to `release` once the blocks were
    read. `held` is closed when all is heard.
    """

    by: str
    prefilling: Prefilling
    tokens: int
    blocks: int
    vocabulary: int
    deadline: Deadline
    failed: Callable[[CacheStoreError], None]
    release: Callable[[Handoff, str], None]
    held: ExitStack
    first: FirstToken = field(default_factory=FirstToken)
    store: str = ""
    read_from: Store | None = None
    """That store, open."""
    token: Token | None = None
    _asked_at: float = field(default_factory=time.monotonic)
    _handoff: Handoff | None = None
    _left: bool = False
    _known: Event = field(default_factory=Event)
    _read: Event = field(default_factory=Event)

    def open(self) -> None:
        """Begins to follow."""
        Thread(target=self._follow, name="handoff", daemon=True).start()

    def begun(self, within: float) -> bool:
        """Waits at most `within` seconds until the blocks can be waited for; whether they can."""
        self._known.wait(within)
        return bool(self.store)

    @property
    def heard(self) -> bool:
        """Whether it began, or failed."""
        return self._known.is_set()

    def read(self) -> None:
        """The KV of the prompt is here."""
        self._read.set()

    def leave(self) -> None:
        """Nobody here waits for anything of it any more: it is cancelled, or its lease released. Twice is allowed."""
        self._left = True
        if self.token is None:
            self.prefilling.cancel()
        self._read.set()

    def _follow(self) -> None:
        try:
            with self.held:
                self._listen()
        except Exception as error:
            self.first.give_up()
            self.prefilling.cancel()
            if not self._left:
                self.failed(clear(error, "following a handoff"))
        finally:
            self._known.set()
        if self._handoff is not None:
            self._read.wait()
            self.release(self._handoff, self.store)

    def _listen(self) -> None:
        for message in self.prefilling:
            if isinstance(message, Begun):
                self.store = message.store
                self._known.set()
            elif isinstance(message, Token):
                if message.id >= self.vocabulary:
                    raise Mismatch(f"the prefill worker {self.by} tells a token that this model does not have")
                self.token = message
                self.first.tell(message.id, message.logprob, message.top)
            elif isinstance(message, Handoff):
                self._handoff = message
            else:
                self._check_pace(message.tokens)
        if self._handoff is None or self.token is None:
            raise Unavailable(f"the prefill worker {self.by} ended its answer too early")
        if self._handoff.blocks < self.blocks:
            # the others were not kept: nobody writes them
            self.first.give_up()

    def _check_pace(self, tokens: int) -> None:
        """DeadlineExceeded if half of the time is over, and more of it than of the prompt, of which so much is done.

        What is left is for computing the rest here.
        """
        used = (time.monotonic() - self._asked_at) / max(self.deadline.at - self._asked_at, 1e-3)
        if used > max(0.5, tokens / self.tokens):
            raise DeadlineExceeded(f"the prefill worker {self.by} is too slow: {tokens} of {self.tokens} tokens so far")
