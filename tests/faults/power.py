"""A disk that loses its power: what a folder may hold afterwards, given every system call that changed it.

Until a file is flushed, any part of its bytes may be missing or zero; until a folder is flushed, each name in it may be
as it was at any time since it was flushed before. Names and bytes reach the disk in any order.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from random import Random
from threading import Lock
from typing import Any

import pytest

FOLDER = -1
"""Stands where a name is that of a folder, and not the number of a file."""

SECTORS = (512, 4096)
"""Bytes that reach a disk together or not at all."""


@dataclass(eq=False)
class Medium:
    """What reached a disk for certain, and what may have. Names are relative to one folder."""

    names: dict[str, list[int | None]] = field(default_factory=dict)
    """What each name stood for since its folder was flushed: a file, a folder, nothing."""
    files: list[bytearray] = field(default_factory=list)
    flushed: set[int] = field(default_factory=set)

    def name(self, path: str, what: int | None) -> None:
        """From now on `path` stands for this."""
        self.names.setdefault(path, [None]).append(what)

    def create(self, path: str) -> int:
        """A new empty file of this name; its number."""
        self.files.append(bytearray())
        self.name(path, len(self.files) - 1)
        return len(self.files) - 1

    def write(self, file: int, data: bytes) -> None:
        """More bytes at its end."""
        self.files[file] += data
        self.flushed.discard(file)

    def rename(self, source: str, target: str) -> None:
        """The new name and the end of the old one: either may be there without the other."""
        self.name(target, self.names[source][-1])
        self.name(source, None)

    def flush(self, file: int) -> None:
        """All its bytes stay."""
        self.flushed.add(file)

    def flush_names(self, folder: str) -> None:
        """The names in this folder stay as they are."""
        for path, states in self.names.items():
            if str(PurePosixPath(path).parent) == folder:
                del states[:-1]

    def lose_power(self, into: Path, random: Random) -> None:
        """Makes in the empty folder `into` one of the states that may be found afterwards."""
        into.mkdir(mode=0o700)
        contents: dict[int, bytes] = {}
        for path in sorted(self.names, key=lambda path: path.count("/")):
            what, place = random.choice(self.names[path]), into / path
            if what is None or not place.parent.is_dir():
                continue
            if what == FOLDER:
                place.mkdir(mode=0o700)
                continue
            if what not in contents:
                contents[what] = self._left(what, random)
            place.write_bytes(contents[what])
            place.chmod(0o600)

    def _left(self, file: int, random: Random) -> bytes:
        whole = bytes(self.files[file])
        if file in self.flushed:
            return whole
        sector = random.choice(SECTORS)
        cut = random.randint(0, len(whole) // sector) * sector
        return random.choice([whole, b"", whole[:cut], whole[:cut] + bytes(len(whole) - cut)])


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, after_each: Callable[[], None]) -> Iterator[Medium]:
    """The medium of whatever this process changes by descriptors of a folder, from its opening on.

    The calls go to the system as ever; `after_each` is called behind each that changed something.
    """
    medium, lock = Medium(), Lock()
    folders: dict[int, str] = {}
    files: dict[int, int] = {}
    real: dict[str, Any] = {name: getattr(os, name) for name in ("open", "write", "fsync", "close", "mkdir")}
    real |= {name: getattr(os, name) for name in ("rename", "unlink", "rmdir")}

    def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor: int = real["open"](path, flags, mode, dir_fd=dir_fd)
        if dir_fd is not None and flags & os.O_CREAT:
            files[descriptor] = medium.create(path)
            after_each()
        elif dir_fd is not None and flags & os.O_DIRECTORY:
            folders[descriptor] = path
        return descriptor

    def wrote(descriptor: int, data: Any) -> int:
        count: int = real["write"](descriptor, data)
        if descriptor in files:
            medium.write(files[descriptor], bytes(data[:count]))
            after_each()
        return count

    def flushed(descriptor: int) -> None:
        real["fsync"](descriptor)
        if descriptor in files:
            medium.flush(files[descriptor])
        elif descriptor in folders:
            medium.flush_names(folders[descriptor])
        after_each()

    def closed(descriptor: int) -> None:
        files.pop(descriptor, None)
        folders.pop(descriptor, None)
        real["close"](descriptor)

    def made(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real["mkdir"](path, mode, dir_fd=dir_fd)
        if dir_fd is not None:
            medium.name(path, FOLDER)
            after_each()

    def renamed(source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if src_dir_fd is not None:
            medium.rename(source, target)
            after_each()

    def gone(word: str) -> Callable[..., None]:
        def call(path: Any, *, dir_fd: int | None = None) -> None:
            real[word](path, dir_fd=dir_fd)
            if dir_fd is not None:
                medium.name(path, None)
                after_each()

        return call

    watching = {"open": opened, "write": wrote, "fsync": flushed, "close": closed, "mkdir": made, "rename": renamed}
    with monkeypatch.context() as patch:
        for name, call in {**watching, "unlink": gone("unlink"), "rmdir": gone("rmdir")}.items():

            def one_at_a_time(*given: Any, call: Any = call, **named: Any) -> Any:
                with lock:
                    return call(*given, **named)

            patch.setattr(os, name, one_at_a_time)
        yield medium
