"""Threads between callers and a disk that may hang: a caller leaves at its deadline, whatever its call is doing."""

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeAlias

from cachestore.deadline import Deadline
from cachestore.tiers.breaker import Breaker

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Call:
    """One batch on its way. Its work asks `goes_on` between steps, and makes results known while not `over`."""

    work: "Work"
    deadline: Deadline
    over: bool = False
    """The caller has left and believes nothing more. Changes under `lock`."""
    lock: Lock = field(default_factory=Lock)
    done: Event = field(default_factory=Event)
    finished: bool = False
    since: float = field(default_factory=time.monotonic)

    def goes_on(self) -> bool:
        """Whether the caller still waits; says that the disk answers."""
        self.since = time.monotonic()
        return not self.over

    def finish(self) -> None:
        """All was done, and the caller is told so if it still waits."""
        with self.lock:
            self.finished = not self.over


Work: TypeAlias = Callable[[Call], bool]
"""Whether the disk did anything for it; OSError if the disk failed it, wholly or in part."""


@dataclass(eq=False)
class Lane:
    """Runs calls on `threads` threads of its own; gives a disk up that fails, or that answers none of them."""

    what: str
    threads: int
    timeout: float
    breaker: Breaker = field(default_factory=Breaker)
    _calls: SimpleQueue[Call | None] = field(default_factory=SimpleQueue)
    _running: dict[int, Call] = field(default_factory=dict)
    _started: list[Thread] = field(default_factory=list)
    _trouble: str = ""

    @property
    def healthy(self) -> bool:
        """False while the disk fails, or while every thread hangs in it."""
        return not self.breaker.open and not self._stuck

    @property
    def _stuck(self) -> bool:
        running = list(self._running.values())
        oldest = time.monotonic() - self.timeout
        return len(running) == self.threads and all(call.since < oldest for call in running)

    def open(self) -> None:
        """Starts the threads."""
        for number in range(self.threads):
            thread = Thread(target=self._work, args=(number,), name=f"cachestore-disk-{self.what}", daemon=True)
            thread.start()
            self._started.append(thread)

    def close(self, until: Deadline) -> bool:
        """Ends the threads; False if one still hangs in the disk when the time is over."""
        for _ in self._started:
            self._calls.put(None)
        for thread in self._started:
            thread.join(until.remaining())
        hanging = any(thread.is_alive() for thread in self._started)
        self._started.clear()
        return not hanging

    def run(self, work: Work, deadline: Deadline, *, given_up: bool = False) -> bool:
        """Whether all was finished when this returns: by the deadline, or after `timeout` without an answer.

        With `given_up` it is tried on a disk that fails, too.
        """
        if not deadline.remaining() or self._stuck or not (given_up or self.breaker.allows()):
            return False
        call = Call(work, deadline)
        self._calls.put(call)
        while not call.done.wait(min(deadline.remaining(), self.timeout)):
            if not deadline.remaining() or call.since + self.timeout <= time.monotonic():
                break
        with call.lock:
            call.over = True
            return call.finished

    def attempt(self, work: Callable[[], bool]) -> None:
        """Does work here and now; what comes of it decides about the disk."""
        try:
            if work():
                self._succeeded()
        except OSError as error:
            self._failed(error)
        except Exception:  # no work may end its thread
            log.exception("disk tier: %s failed", self.what)

    def _failed(self, error: OSError) -> None:
        # said once, until it fails otherwise or works again
        name = errno.errorcode.get(error.errno or 0, "unknown")
        self.breaker.failed()
        if name != self._trouble:
            self._trouble = name
            log.warning("disk tier: %s fails with %s", self.what, name)

    def _succeeded(self) -> None:
        self.breaker.succeeded()
        if self._trouble:
            self._trouble = ""
            log.warning("disk tier: %s works again", self.what)

    def _work(self, number: int) -> None:
        while (call := self._calls.get()) is not None:
            call.since = time.monotonic()
            self._running[number] = call
            if not call.over:
                self.attempt(partial(call.work, call))
            del self._running[number]
            call.done.set()
