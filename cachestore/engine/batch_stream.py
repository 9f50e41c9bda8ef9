"""The answer to one request, as the loop gives it to whoever asked."""

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Self

from cachestore.deadline import Deadline
from cachestore.engine.batch_request import BatchProgress, BatchToken, BatchUsage
from cachestore.errors import CacheStoreError, DeadlineExceeded

GRACE = 0.2
"""Seconds the loop has to say itself that the deadline is over."""

Answer = BatchProgress | BatchToken | BatchUsage


class BatchStream:
    """Iterates over tokens and then the usage; raises the error that ended the request instead.

    Of a request `by_slot` there is progress between them, as soon as its put is open, and then twice a second while the
    loop makes turns. One thread iterates; any may `abort` or `finish`. Leaving it as a context aborts what has not
    ended.
    """

    def __init__(self, deadline: Deadline, wake: Callable[[], None]) -> None:
        self.aborted = False
        self.finished = False
        self._deadline = deadline
        self._wake = wake
        self._ended = False
        self._items: SimpleQueue[Answer | CacheStoreError] = SimpleQueue()

    def give(self, item: Answer | CacheStoreError) -> None:
        """The next answer, from the loop. A usage or an error is the last."""
        self._items.put(item)

    def abort(self) -> None:
        """Gives the request up: its pages are free before the next step. Aborting twice is allowed."""
        if not self.aborted:
            self.aborted = True
            self._wake()

    def finish(self) -> None:
        """The request ends before the next step, as if its stop had come: with its usage, what it made is put."""
        if not self.finished:
            self.finished = True
            self._wake()

    def __iter__(self) -> Iterator[Answer]:
        return self

    def __next__(self) -> Answer:
        if self._ended:
            raise StopIteration
        try:
            item = self._items.get(timeout=self._deadline.remaining() + GRACE)
        except Empty:
            self._ended = True
            self.abort()
            raise DeadlineExceeded("the deadline passed in the middle of a step") from None
        self._ended = isinstance(item, BatchUsage | CacheStoreError)
        if isinstance(item, CacheStoreError):
            raise item
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self._ended = True
            self.abort()
