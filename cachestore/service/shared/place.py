"""A private folder for the socket of sessions, which does not outlive its server for long.

A killed server leaves its folder behind. It held a lock on it, which ended with it: the next server finds the folder
unlocked and removes it.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "cachestore-session-"

LONGEST_PATH = 100
"""Bytes of a path that a socket's address takes."""

ATTEMPTS = 3


@dataclass(eq=False)
class SessionPlace:
    """A folder of its owner's alone; `lock` is the descriptor that keeps it."""

    folder: Path
    lock: int

    @property
    def socket(self) -> Path:
        """Where the socket goes."""
        return self.folder / "session"

    def close(self) -> None:
        """Removes it, and whatever is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)


def session_place() -> SessionPlace:
    """A new place, with a path short enough for a socket's address. OSError if there can be none."""
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if not parent or len(os.fsencode(parent)) + len(PREFIX) + 20 > LONGEST_PATH:
            continue
        _sweep(Path(parent))
        # one that was just made may be swept away by another server before it is locked
        for _ in range(ATTEMPTS):
            with suppress(OSError):
                folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if folder.exists():
                        return SessionPlace(folder, lock)
                os.close(lock)
    raise FileNotFoundError(0, "no folder for temporary files can be used")


def _sweep(parent: Path) -> None:
    """Removes what servers of this user left behind that are gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
