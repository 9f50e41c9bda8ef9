"""The folder of a disk tier: one file for each sealed block, written aside and renamed into place.

    <path>/.writing/*                        what is being written, or was when the process died
    <path>/<namespace>/<2 hex>/<key>         a block, verbatim; names are hexadecimal

Only a whole file ever gets a block's name. Nothing here follows a symbolic link that stands where a block should, and
what is no file of ours is left as it is. OSError where the disk fails.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

from cachestore.block import Buffer
from cachestore.errors import ConfigError
from cachestore.seal import CorruptBlock

WRITING = ".writing"

UNIT = 4096
"""Files take whole units of the disk."""

PIECE = 16 << 20
"""Bytes moved at a time: what takes a slow disk much less than one would wait for it."""

_NAME = re.compile(r"[0-9a-f]{64}")
_INNER = re.compile(r"[0-9a-f]{2}")
# O_NONBLOCK so that a pipe in a block's place cannot hold anybody up
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def folder_of(namespace: bytes, key: bytes) -> str:
    """The folder of a block, relative to the tier's."""
    return f"{namespace.hex()}/{key[:1].hex()}"


def place_of(namespace: bytes, key: bytes) -> str:
    """The file of a block, relative to the tier's folder."""
    return f"{folder_of(namespace, key)}/{key.hex()}"


@dataclass(eq=False)
class Files:
    """An open, locked folder."""

    root: int
    _unique: str = field(default_factory=lambda: secrets.token_hex(8))
    _numbers: Iterator[int] = field(default_factory=count)
    _anchored: set[str] = field(default_factory=set)
    """Folders whose own names are known to survive a loss of power."""

    @classmethod
    def open(cls, path: str) -> Self:
        """Opens or creates the folder and locks it against every other store; ConfigError if it cannot be ours."""
        place = Path(path)
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _refused(path, f"cannot be used as a folder ({error.strerror})") from error
        try:
            _check_owner(path, os.fstat(root))
            # the folder itself is locked, not a file in it: such a file can be removed, and then two would hold it
            fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files = cls(root)
            name, descriptor = files.create()
            os.close(descriptor)
            files.discard(name)
            return files
        except BlockingIOError as error:
            os.close(root)
            raise _refused(path, "is used by another store", "stop that one, or ") from error
        except OSError as error:
            os.close(root)
            raise _refused(path, f"cannot be written ({error.strerror})") from error
        except BaseException:
            os.close(root)
            raise

    def close(self) -> None:
        """Gives up the folder and its lock."""
        os.close(self.root)

    def create(self) -> tuple[str, int]:
        """A new empty file aside: its name, and a descriptor for writing."""
        name = f"{WRITING}/{self._unique}-{next(self._numbers)}"
        try:
            return name, os.open(name, _CREATE, 0o600, dir_fd=self.root)
        except FileNotFoundError:
            self._make(WRITING)
            return name, os.open(name, _CREATE, 0o600, dir_fd=self.root)

    def install(self, name: str, namespace: bytes, key: bytes) -> None:
        """Gives a file written aside its block's name; what had that name is gone."""
        place = place_of(namespace, key)
        try:
            os.rename(name, place, src_dir_fd=self.root, dst_dir_fd=self.root)
        except FileNotFoundError:
            self._make(namespace.hex())
            self._make(folder_of(namespace, key))
            os.rename(name, place, src_dir_fd=self.root, dst_dir_fd=self.root)

    def discard(self, name: str) -> None:
        """Removes a file written aside, as far as the disk lets us; the next start collects what stays."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self.root)

    def remove(self, namespace: bytes, key: bytes) -> None:
        """Removes a block's file. What else stands in its place, or nothing, is no error and stays."""
        try:
            os.unlink(place_of(namespace, key), dir_fd=self.root)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return

    def sync(self, folders: Iterable[str]) -> None:
        """Returns once the names in these folders survive a loss of power."""
        wanted = set(folders)
        fresh = wanted - self._anchored
        if fresh:
            wanted |= {folder.partition("/")[0] for folder in fresh} | {"."}
        for folder in sorted(wanted):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.root)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._anchored |= fresh

    def read(self, namespace: bytes, key: bytes, into: Buffer, goes_on: Callable[[], bool]) -> bool:
        """Fills `into` with the file of a block; False if it need not go on before all is there.

        CorruptBlock if that is no file of ours, or not just as long.
        """
        descriptor, seen = self._open(namespace, key)
        try:
            if seen.st_size != into.nbytes:
                raise CorruptBlock("truncated")
            done = 0
            while done < into.nbytes and goes_on():
                got = os.readv(descriptor, [into.data[done : done + PIECE]])
                if not got:
                    raise CorruptBlock("truncated")
                done += got
            return done == into.nbytes
        finally:
            os.close(descriptor)

    def front(self, namespace: bytes, key: bytes, nbytes: int) -> tuple[bytes, os.stat_result]:
        """At most the first `nbytes` of a block's file, and what it is; CorruptBlock if it is no file of ours."""
        descriptor, seen = self._open(namespace, key)
        try:
            return os.pread(descriptor, nbytes, 0), seen
        finally:
            os.close(descriptor)

    def probe(self) -> bool:
        """Writes a small file through to the disk and removes it: whether writing works."""
        name, descriptor = self.create()
        try:
            try:
                os.write(descriptor, bytes(UNIT))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            self.discard(name)
        return True

    def collect(self) -> None:
        """Removes what a dead process was writing. Only while nothing is being written."""
        for name in self._names(WRITING):
            self.discard(f"{WRITING}/{name}")

    def blocks(self) -> Iterator[tuple[bytes, bytes]]:
        """The (namespace, key) of every name in the folder that a block could have. Removes empty folders."""
        for namespace in filter(_NAME.fullmatch, self._names(".")):
            for inner in filter(_INNER.fullmatch, self._names(namespace)):
                names = self._names(f"{namespace}/{inner}")
                for name in filter(_NAME.fullmatch, names):
                    if name.startswith(inner):
                        yield bytes.fromhex(namespace), bytes.fromhex(name)
                if not names:
                    with suppress(OSError):
                        os.rmdir(f"{namespace}/{inner}", dir_fd=self.root)
            with suppress(OSError):
                os.rmdir(namespace, dir_fd=self.root)

    def _open(self, namespace: bytes, key: bytes) -> tuple[int, os.stat_result]:
        try:
            descriptor = os.open(place_of(namespace, key), _READ, dir_fd=self.root)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise CorruptBlock("foreign") from None
            raise
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != os.geteuid():
            os.close(descriptor)
            raise CorruptBlock("foreign")
        return descriptor, seen

    def _names(self, folder: str) -> list[str]:
        """What is in a folder; nothing if that is no folder of ours."""
        try:
            descriptor = os.open(folder, _READ | os.O_DIRECTORY, dir_fd=self.root)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                return []
            raise
        try:
            return os.listdir(descriptor) if os.fstat(descriptor).st_uid == os.geteuid() else []
        finally:
            os.close(descriptor)

    def _make(self, folder: str) -> None:
        with suppress(FileExistsError):
            self._anchored.discard(folder)
            os.mkdir(folder, 0o700, dir_fd=self.root)


def write(descriptor: int, data: Buffer, goes_on: Callable[[], bool]) -> bool:
    """Writes all of it, of which a disk may take less at a time; False if it need not go on before."""
    done = 0
    while done < data.nbytes and goes_on():
        done += os.write(descriptor, data.data[done : done + PIECE])
    return done == data.nbytes


def check(path: str) -> None:
    """ConfigError if the folder cannot be ours, as far as that can be said of it without opening or making it."""
    place = Path(path).absolute()
    try:
        there = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
        seen = there.stat()
    except OSError as error:
        raise _refused(path, f"cannot be used as a folder ({error.strerror})") from error
    if not stat.S_ISDIR(seen.st_mode):
        raise _refused(path, f"cannot be used as a folder ({os.strerror(errno.ENOTDIR)})")
    if there == place:
        _check_owner(path, seen)
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK if there == place else os.W_OK | os.X_OK):
        raise _refused(path, "cannot be written" if there == place else f"cannot be made: {there} cannot be written")


def _check_owner(path: str, seen: os.stat_result) -> None:
    if seen.st_uid != os.geteuid():
        raise _refused(path, "belongs to another user")
    if seen.st_mode & 0o022:
        raise _refused(path, "may be written by other users", f"run chmod 700 {path}, or ")


def _refused(path: str, why: str, way_out: str = "") -> ConfigError:
    return ConfigError(f"tiers.disk.path: {path} {why}; {way_out}name a folder that this user alone may write")
