"""Ends what gRPC does not: a stream that is waited for beyond its time.

A call that begins while its server goes away may know neither deadline nor cancelling (seen with grpcio 1.85, once in a
hundred restarts); closing its channel ends it. So one thread looks whether a message is waited for longer than it may
be, and has the channel replaced then.
"""

import math
import time
from collections.abc import Callable
from threading import Condition, Thread, current_thread
from typing import Any, Self

import grpc

LATE = 0.1
"""Seconds that gRPC itself has to end a call after its deadline."""

IDLE = 2.0
"""Seconds for which the thread waits for something to look after."""


class Replaced(grpc.RpcError):
    """A call ended with its channel; `late` says that its own time was over."""

    def __init__(self, *, late: bool) -> None:
        super().__init__("its channel was replaced")
        self._late = late

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED if self._late else grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return str(self)

    def trailing_metadata(self) -> tuple[()]:
        return ()


class Watchdog:
    """Looks after the streams of one channel; `replace` ends all of them, from a thread of its own."""

    def __init__(self, replace: Callable[[], None]) -> None:
        self._replace = replace
        self._changed = Condition()
        self._waits: dict[object, float] = {}
        self._next = math.inf
        self._thread: Thread | None = None
        self.bites = 0
        """How often it had the channel replaced."""

    def close(self) -> None:
        """Stops looking, until something is waited for again. Closing twice is allowed."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def begin(self, until: float) -> object:
        """Something is waited for, until then by the monotonic clock; what `end` takes."""
        wait = object()
        with self._changed:
            self._waits[wait] = until
            if self._thread is None:
                self._thread = Thread(target=self._look, name="cachestore-watchdog", daemon=True)
                self._thread.start()
            elif until < self._next:
                self._changed.notify_all()
        return wait

    def end(self, wait: object) -> None:
        """It came."""
        with self._changed:
            del self._waits[wait]

    def ended(self, error: grpc.RpcError, bites: int) -> bool:
        """Whether this is why a call ended that began when there were so many `bites`."""
        return error.code() is grpc.StatusCode.CANCELLED and self.bites > bites

    def _look(self) -> None:
        own = current_thread()
        while True:
            with self._changed:
                self._next = min(self._waits.values(), default=math.inf)
                left = self._next - time.monotonic()
                if left > 0 and self._thread is own:
                    self._changed.wait(left if self._waits else IDLE)
                if self._thread is own and not self._waits:
                    self._thread = None
                if self._thread is not own:
                    return
            if left <= 0:
                self.bites += 1
                self._replace()
                # what that ended needs a moment to say so
                time.sleep(LATE)


class Watched:
    """The answers of a `call`, none waited for beyond `timeout` seconds from now, or `patience` seconds at a time."""

    def __init__(self, watchdog: Watchdog, call: Any, timeout: float, patience: float = math.inf) -> None:
        self._watchdog = watchdog
        self._call = call
        self._until = time.monotonic() + timeout + LATE
        self._patience = patience
        self._bites = watchdog.bites

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        wait = self._watchdog.begin(min(self._until, time.monotonic() + self._patience))
        try:
            return next(self._call)
        except grpc.RpcError as error:
            if self._watchdog.ended(error, self._bites):
                raise Replaced(late=time.monotonic() > self._until) from error
            raise
        finally:
            self._watchdog.end(wait)

    def cancel(self) -> None:
        """Ends the call; never waits."""
        self._call.cancel()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls it when the call has ended; False if it has."""
        added: bool = self._call.add_callback(callback)
        return added
