"""Every call has a deadline; this is how it is carried.

A caller gives seconds; inside, only the point in time travels, so that a call which is made of several waits
cannot add them up past its bound.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import TIMEOUT_MAX, Condition, Lock
from typing import Self

from cachestore.errors import DeadlineExceeded, InvalidArgument


@dataclass(frozen=True)
class Deadline:
    """A point in monotonic time, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The deadline `seconds` from now; zero or less is refused, and so is for ever or no number at all."""
        if not 0 < seconds < TIMEOUT_MAX:
            raise InvalidArgument(f"timeout must be more than 0 seconds and end some day, got {seconds!r}")
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def check(self, doing: str) -> None:
        """Raises DeadlineExceeded, saying what was being done, once the time is over."""
        if time.monotonic() >= self.at:
            raise DeadlineExceeded(f"the deadline passed while {doing}")


@contextmanager
def held_until(lock: "Lock | Condition", deadline: Deadline) -> Iterator[bool]:
    """Holds `lock` inside the context, and says so; False, without it, if others kept it until the deadline."""
    held = lock.acquire(timeout=deadline.remaining())
    try:
        yield held
    finally:
        if held:
            lock.release()
