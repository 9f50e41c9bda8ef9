"""What a caller hands to a request stream, bounded: whoever writes faster than the network waits here."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Condition
from typing import Generic, TypeVar

from cachestore.deadline import Deadline

T = TypeVar("T")


@dataclass
class Outbox(Generic[T]):
    """A queue of at most `depth` messages, which gRPC empties as an iterator. Once closed it stays closed."""

    depth: int
    _waiting: deque[T] = field(default_factory=deque)
    _changed: Condition = field(default_factory=Condition)
    _closed: bool = False

    def put(self, message: T, deadline: Deadline) -> bool:
        """Waits for room; False if the box was closed, DeadlineExceeded if the time is over first."""
        with self._changed:
            while not self._closed and len(self._waiting) >= self.depth:
                deadline.check("sending")
                self._changed.wait(deadline.remaining())
            if not self._closed:
                self._waiting.append(message)
                self._changed.notify_all()
            return not self._closed

    def close(self) -> None:
        """Nothing more is taken; what waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if not self._waiting:
                raise StopIteration
            self._changed.notify_all()
            return self._waiting.popleft()
