"""Files that hold secrets: written so that only their owner can read them, and refused where others can."""

import os
import stat
from pathlib import Path

from cachestore.errors import ConfigError

MOST_BYTES = 1 << 20
"""No key, token or chain of certificates is larger."""


def read_private(path: str, field: str) -> bytes:
    """The content of a file that belongs to this user or to root, and that nobody else may read or change.

    ConfigError names `field`, never what the file holds.
    """
    return _read(path, field, private=True)


def read_public(path: str, field: str) -> bytes:
    """The content of a file that anybody may read, but only this user or root may change; ConfigError otherwise."""
    return _read(path, field, private=False)


def write_private(path: Path, content: bytes) -> None:
    """Makes a file that only its owner can read; ConfigError if there is one."""
    _write(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Makes a file that anybody can read; ConfigError if there is one."""
    _write(path, content, 0o644)


def _read(path: str, field: str, *, private: bool) -> bytes:
    try:
        # opening a pipe would wait for its writer
        descriptor = os.open(Path(path).expanduser(), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
                raise ConfigError(f"{field}: {path} is no file of at most {MOST_BYTES >> 20} MiB")
            if private and status.st_mode & 0o077:
                raise ConfigError(f"{field}: others than its owner may read or change {path}; run: chmod 600 {path}")
            if status.st_mode & 0o022 or status.st_uid not in (os.geteuid(), 0):
                raise ConfigError(f"{field}: others than this user may change {path}; chown it and chmod go-w it")
            return os.read(descriptor, MOST_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{field}: cannot read {path}: {error.strerror}") from error


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise ConfigError(f"{path} exists; nothing is overwritten here: move it away first") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
