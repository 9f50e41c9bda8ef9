"""The thread that lets a directory do what is due."""

from dataclasses import dataclass, field
from threading import Event, Thread

from cachestore.directory.base import Directory

PATIENCE = 5.0
"""Seconds that a step may still take when it is to be the last."""

REST = 0.002
"""Seconds between two steps, in which what is to be told together comes together."""


@dataclass(eq=False)
class Pulse:
    """Calls `step` whenever something is due, from `open` to `close`."""

    directory: Directory
    _over: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def open(self) -> None:
        """Starts the thread."""
        self._over.clear()
        self._thread = Thread(target=self._beat, name="cachestore-directory", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. Closing twice is allowed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._over.set()
            self.directory.due.set()
            thread.join(PATIENCE)

    def _beat(self) -> None:
        due = self.directory.due
        while not self._over.is_set():
            due.clear()
            self.directory.step()
            due.wait(self.directory.every)
            self._over.wait(REST)
