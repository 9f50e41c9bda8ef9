"""Ends what gRPC does not: a stream that is waited for beyond its time.

A call that begins while its server goes away may know neither deadline nor cancelling (seen with grpcio 1.85, once in a
hundred restarts); closing its channel ends it, and everything else there. So one thread looks whether a message is
waited for longer than it may be. It cancels that call, and where this ends nothing has the channel replaced.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition, Thread, current_thread
from typing import Any, Self

import grpc

LATE = 0.1
"""Seconds that gRPC itself has to end a call after its deadline, or to say that it has ended."""

SOON = 0.05
"""Seconds in which a call that was cancelled should end."""

IDLE = 2.0
"""Seconds for which the thread waits for something to look after."""


class Replaced(grpc.RpcError):
    """A call was cancelled, or ended with its channel; `late` says that its own time was over."""

    def __init__(self, *, late: bool) -> None:
        super().__init__("its time was over" if late else "its channel was replaced")
        self._late = late

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED if self._late else grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return str(self)

    def trailing_metadata(self) -> tuple[()]:
        return ()


@dataclass(eq=False)
class Wait:
    """What is waited for until then by the monotonic clock; `cancel` is tried before the channel is replaced."""

    until: float
    cancel: Callable[[], None] | None


class Watchdog:
    """Looks after the streams of one channel; `replace` ends all of them, from a thread of its own."""

    def __init__(self, replace: Callable[[], None]) -> None:
        self._replace = replace
        self._changed = Condition()
        self._waits: set[Wait] = set()
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

    def begin(self, until: float, cancel: Callable[[], None] | None = None) -> Wait:
        """Something is waited for; what `end` takes."""
        wait = Wait(until, cancel)
        with self._changed:
            self._waits.add(wait)
            if self._thread is None:
                self._thread = Thread(target=self._look, name="cachestore-watchdog", daemon=True)
                self._thread.start()
            elif until < self._next:
                self._changed.notify_all()
        return wait

    def end(self, wait: Wait) -> None:
        """It came."""
        with self._changed:
            self._waits.remove(wait)

    def ended(self, error: grpc.RpcError, bites: int) -> bool:
        """Whether this is why a call ended that began when there were so many `bites`."""
        return error.code() is grpc.StatusCode.CANCELLED and self.bites > bites

    def _look(self) -> None:
        own = current_thread()
        while True:
            with self._changed:
                self._next = min((wait.until for wait in self._waits), default=math.inf)
                left = self._next - time.monotonic()
                if left > 0 and self._thread is own:
                    self._changed.wait(left if self._waits else IDLE)
                if self._thread is own and not self._waits:
                    self._thread = None
                if self._thread is not own:
                    return
                now = time.monotonic()
                late = [wait for wait in self._waits if wait.until <= now]
                cancels = [wait.cancel for wait in late if wait.cancel is not None]
                bite = len(cancels) < len(late)
                for wait in late:
                    wait.until, wait.cancel = now + SOON, None
            for cancel in cancels:
                cancel()
            if bite:
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
        self._expired = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        now = time.monotonic()
        silent = now + self._patience
        # with its time over by now, gRPC has the end of the call at hand and only needs to say so
        until = max(min(self._until, silent), now + LATE)
        # a connection that is silent is replaced: another call there would wait as long
        wait = self._watchdog.begin(until, self._expire if self._until <= silent else None)
        try:
            return next(self._call)
        except grpc.RpcError as error:
            expired = self._expired and error.code() is grpc.StatusCode.CANCELLED
            if expired or self._watchdog.ended(error, self._bites):
                raise Replaced(late=expired or time.monotonic() > self._until) from error
            raise
        finally:
            self._watchdog.end(wait)

    def cancel(self) -> None:
        """Ends the call; never waits."""
        self._call.cancel()

    def _expire(self) -> None:
        self._expired = True
        self._call.cancel()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls it when the call has ended; False if it has."""
        added: bool = self._call.add_callback(callback)
        return added
