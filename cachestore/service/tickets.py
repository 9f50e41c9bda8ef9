"""One-time tickets: what was agreed over gRPC is claimed on another connection, once and soon."""

import os
import time
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from typing import Generic, TypeVar

TICKET_BYTES = 32

TICKET_SECONDS = 5.0
"""How long a ticket holds."""

MOST_TICKETS = 1 << 14
"""Tickets that may be out at once; the oldest is forgotten for a further one."""

T = TypeVar("T")


@dataclass(eq=False)
class Tickets(Generic[T]):
    """What was agreed, by ticket. Only digests are kept: finding one takes as long whatever was guessed."""

    _open: dict[bytes, tuple[float, T]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def issue(self, agreed: T) -> bytes:
        """A new ticket for it."""
        ticket = os.urandom(TICKET_BYTES)
        now = time.monotonic()
        with self._lock:
            self._forget(now, MOST_TICKETS - 1)
            self._open[sha256(ticket).digest()] = (now + TICKET_SECONDS, agreed)
        return ticket

    def redeem(self, ticket: bytes) -> T | None:
        """What was agreed; None for a ticket that is unknown, used or too old. It is used up."""
        with self._lock:
            ends, agreed = self._open.pop(sha256(ticket).digest(), (0.0, None))
        return agreed if ends > time.monotonic() else None

    def expire(self) -> None:
        """Lets go of what was agreed with tickets that are too old by now."""
        with self._lock:
            self._forget(time.monotonic(), MOST_TICKETS)

    def __len__(self) -> int:
        """How many are out, those among them that are too old and were not let go yet."""
        return len(self._open)

    def _forget(self, now: float, most: int) -> None:
        # in the order in which they were issued, so the oldest come first
        while self._open:
            first = next(iter(self._open))
            if self._open[first][0] > now and len(self._open) <= most:
                return
            del self._open[first]
