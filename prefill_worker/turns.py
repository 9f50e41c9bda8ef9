"""Who computes now: one at a time, in the order of asking."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

from prefill_worker.call import Call

LOOK = 0.05
"""Seconds between two looks at whether a waiting request is still wanted."""


@dataclass(eq=False)
class Turns:
    """A lock that is fair, and that those who wait for can give up."""

    _line: deque[object] = field(default_factory=deque)
    _changed: Condition = field(default_factory=Condition)

    @contextmanager
    def turn(self, call: Call) -> Iterator[Callable[[], None]]:
        """Nobody else computes inside the context.

        Gives a function that lets those who wait go first and then takes the turn again; it fits as
        `Sequence.prefill`'s check. Aborted or DeadlineExceeded while waiting.
        """
        ticket = object()

        def take() -> None:
            with self._changed:
                self._leave(ticket)
                self._line.append(ticket)
                while True:
                    call.check("waiting for its turn")
                    if self._line[0] is ticket:
                        return
                    self._changed.wait(LOOK)

        try:
            take()
            yield take
        finally:
            with self._changed:
                self._leave(ticket)

    def _leave(self, ticket: object) -> None:
        if ticket in self._line:
            self._line.remove(ticket)
            self._changed.notify_all()
