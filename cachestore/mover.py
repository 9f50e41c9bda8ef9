"""The one owner of threads: a worker that moves blocks in the background, and a clock that ends what is overdue."""

import logging
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

log = logging.getLogger(__name__)

Job = Callable[[], None]


@dataclass(eq=False)
class Mover:
    """Runs `tick` every `every` seconds, and submitted jobs one after the other. A full backlog refuses jobs."""

    tick: Job
    every: float = 0.25
    backlog: int = 4096
    _jobs: queue.Queue[tuple[Job, Future[None]] | None] = field(init=False)
    _stop: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)
    _accepting: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._jobs = queue.Queue(self.backlog)

    def open(self) -> None:
        """Starts both threads."""
        for work, name in ((self._work, "cachestore-mover"), (self._watch, "cachestore-clock")):
            thread = Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Finishes the jobs that were accepted, and ends both threads."""
        if not self._threads:
            return
        with self._accepting:
            self._stop.set()
        self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def submit(self, job: Job) -> Future[None] | None:
        """Queues a job; None if the backlog is full or the mover is closing."""
        done: Future[None] = Future()
        with self._accepting:
            if self._stop.is_set():
                return None
            try:
                self._jobs.put_nowait((job, done))
            except queue.Full:
                return None
        return done

    def settle(self, timeout: float) -> bool:
        """Waits until every job accepted so far is done; False if the time is over first."""
        until = time.monotonic() + timeout
        while self._jobs.unfinished_tasks:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        return True

    def _work(self) -> None:
        while True:
            item = self._jobs.get()
            if item is None:
                self._jobs.task_done()
                return
            job, done = item
            try:
                job()
                done.set_result(None)
            except Exception as error:  # a job must never end the worker; its waiter is told
                log.exception("a background move failed")
                done.set_exception(error)
            finally:
                self._jobs.task_done()

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            try:
                self.tick()
            except Exception:
                log.exception("the store's clock failed once")
