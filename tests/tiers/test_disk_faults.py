"""The disk tier when the process is killed at any system call, and when the disk fails, fills up or hangs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest

from cachestore.eviction.lru import Lru
from cachestore.seal import Header
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import KEYS, A, departed, soon
from cachestore.tiers.disk import Disk

PROGRAM = Path(__file__).with_name("disk_program.py")
SOON = 20.0


class Driver:
    """A running `disk_program`, and strace to make its system calls fail, wait or kill."""

    def __init__(self) -> None:
        self.talk, theirs = socket.socketpair()
        self.talk.settimeout(60)
        with theirs:
            self.process = subprocess.Popen([sys.executable, str(PROGRAM)], stdin=theirs.fileno())
        self._answers = self.talk.makefile("r")
        self.pid = 0

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.process.kill()
        self.process.wait()
        self._answers.close()
        self.talk.close()

    def open(self, folder: Path, *, timeout: float = 5, threads: int = 4) -> None:
        """A fresh process with a tier on this folder."""
        self.pid = int(self.tell(f"open {folder} {timeout} {threads}").split()[1])

    def tell(self, line: str) -> str:
        """What it answers; "died" if it has."""
        self.talk.sendall(line.encode())
        answer = self._answers.readline().strip()
        self.pid = 0 if answer == "died" else self.pid
        return answer

    def kill(self) -> None:
        """Ends the process with the tier without a word."""
        os.kill(self.pid, 9)
        assert self._answers.readline() == "died\n"
        self.pid = 0

    @contextmanager
    def tampered(self, call: str, how: str = "", seen: str = "/dev/null") -> Iterator[None]:
        """While this lasts, strace does `how` (its words) to the system calls `call` of the process with the tier.

        It writes these calls to the file `seen`.
        """
        if which("strace") is None:
            pytest.skip("needs strace")
        command = ["strace", "-f", "-p", str(self.pid), "-o", seen, "-e", f"trace={call}"]
        command += ["-e", f"inject={call}:{how}"] if how else []
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            until = time.monotonic() + SOON
            while not self._traced():
                if process.poll() is not None:
                    pytest.skip(f"strace may not trace here: {process.stderr.read().strip()}")
                assert time.monotonic() < until, "strace did not attach"
                time.sleep(0.002)
            yield
        finally:
            process.terminate()
            process.wait()
            process.stderr.close()

    def _traced(self) -> bool:
        states = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/status")]
        return all("TracerPid:\t0\n" not in state for state in states)


@pytest.fixture(scope="module")
def program() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def driver(program: Driver) -> Iterator[Driver]:
    """The program without an open tier, before and after."""
    yield program
    if program.pid:
        program.kill()


PUT_PATH = ("openat", "write", "fsync", "close", "renameat", "mkdirat", "unlinkat", "newfstatat", "ftruncate")
"""Every system call that changing the folder takes; those that a run does not make end it at once."""

HISTORY: tuple[tuple[str, dict[int, int | None]], ...] = (
    ("put 0 1 durable", {0: 1}),
    ("put 1 1 cache", {1: 1}),
    ("put 0 2 durable 2 2 durable", {0: 2, 2: 2}),
    ("put 1 3 cache 3 3 cache", {1: 3, 3: 3}),
    ("delete 0", {0: None}),
    ("put 1 4 durable", {1: 4}),
    ("clear", {0: None, 1: None, 2: None, 3: None}),
    ("put 3 5 durable", {3: 5}),
)


@dataclass
class Allowed:
    """Which contents each block may have: one once it was acknowledged, several while something was under way."""

    contents: dict[int, set[int | None]] = field(default_factory=lambda: {number: {None} for number in range(4)})

    def begun(self, changes: dict[int, int | None]) -> None:
        for number, seed in changes.items():
            self.contents[number].add(seed)

    def done(self, changes: dict[int, int | None]) -> None:
        for number, seed in changes.items():
            self.contents[number] = {seed}


def check_folder(folder: Path, allowed: Allowed) -> None:
    """Opens it as the next process would: what may be there is there, whole, and nothing else is."""
    tier = Disk(str(folder), 64 << 20).start(Lru())
    tier.open(departed)
    try:
        room = 0
        for number, found in enumerate(tier.get_many(A, KEYS[:4], soon())):
            seed = None
            if found is not None:
                assert isinstance(found, np.ndarray)
                header = Header.parse(found)
                seed = header.sequence
                whole = sealed_block(A, KEYS[number], 20_000, seed, durable=bool(header.flags & 8))
                assert np.array_equal(found, whole)
                room += -(-found.nbytes // 4096) * 4096
            assert seed in allowed.contents[number], f"block {number} has content {seed}, not {allowed.contents}"
        assert tier.usage().used == room
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sum(-(-path.stat().st_size // 4096) * 4096 for path in files) == room
    finally:
        tier.close()


def crash_at(driver: Driver, folder: Path, call: str, when: int) -> bool:
    """Kills the process at the n-th `call` of the history and looks at what is left; False if it never came to it."""
    allowed = Allowed()
    # injected calls are counted for each thread: one thread makes the count that of the tier
    driver.open(folder, threads=1)
    with driver.tampered(call, f"signal=KILL:when={when}"):
        for line, changes in HISTORY:
            allowed.begun(changes)
            answer = driver.tell(line)
            if answer == "died":
                break
            assert answer in ("True", "[True]", "3")
            allowed.done(changes)
        else:
            assert driver.tell("close") == "closed"
    crashed = not driver.pid
    if driver.pid:
        driver.kill()
    check_folder(folder, allowed)
    return crashed


@pytest.mark.parametrize("call", ["write", "fsync", "renameat", "unlinkat"])
def test_a_process_killed_at_a_system_call_leaves_whole_blocks(driver: Driver, tmp_path: Path, call: str) -> None:
    assert crash_at(driver, tmp_path / "first", call, 1)
    assert crash_at(driver, tmp_path / "third", call, 3)


@pytest.mark.slow
@pytest.mark.parametrize("call", PUT_PATH)
def test_a_process_killed_at_every_system_call_leaves_whole_blocks(driver: Driver, tmp_path: Path, call: str) -> None:
    when = 1
    while crash_at(driver, tmp_path / str(when), call, when):
        when += 1
    assert when > 3 or call in ("newfstatat", "ftruncate")


def test_acknowledged_blocks_are_there_after_a_kill(driver: Driver, tmp_path: Path) -> None:
    driver.open(tmp_path)
    assert driver.tell("put 0 1 durable 1 1 durable 2 1 durable") == "True"
    assert driver.tell("put 3 1 cache") == "True"
    driver.kill()
    driver.open(tmp_path)
    assert [driver.tell(f"get {number} 5") for number in range(4)] == ["right 1"] * 4


WRITING = [(call, error) for call in ("openat", "write", "fsync", "close", "renameat") for error in ("EIO", "EROFS")]
WRITING += [("openat", "EMFILE"), ("write", "ENOSPC"), ("close", "EDQUOT"), ("fsync", "ENOSPC")]
QUICK = {("write", "ENOSPC"), ("fsync", "EIO")}


@pytest.mark.parametrize(
    ("call", "error"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in WRITING]
)
def test_a_disk_that_fails_to_write_is_given_up_and_tried_again(
    driver: Driver, tmp_path: Path, eventually: Callable[..., None], call: str, error: str
) -> None:
    driver.open(tmp_path)
    assert driver.tell("put 0 1 durable") == "True"
    with driver.tampered(call, f"error={error}"):
        for number in range(4):
            # the second is a block that was there: what is not acknowledged has not taken its place half
            assert driver.tell(f"put {1 - number % 2} 2 durable") == "False"
        assert driver.tell("healthy") == "False"
        assert driver.tell("log") == f"disk tier: writing fails with {error}"
        if call not in ("openat", "close"):
            assert driver.tell("get 0 5") in ("right 1", "right 2")
    eventually(lambda: driver.tell("healthy") == "True")
    eventually(lambda: driver.tell("log") == "disk tier: writing works again")
    assert driver.tell("put 1 3 durable") == "True" and driver.tell("get 1 5") == "right 3"
    driver.kill()
    check_folder(tmp_path, Allowed({0: {1, 2}, 1: {3}, 2: {None}, 3: {None}}))


def test_a_file_is_not_believed_after_its_flush_failed_once(driver: Driver, tmp_path: Path) -> None:
    driver.open(tmp_path, threads=1)
    with driver.tampered("fsync", "error=EIO:when=1"):
        assert driver.tell("put 0 1 durable") == "False"
        assert driver.tell("get 0 5") == "None"
        assert driver.tell("put 0 2 durable") == "True"
    with driver.tampered("fsync", "error=EIO:when=2"):
        # the file is flushed, its name is not
        assert driver.tell("put 1 1 durable") == "False"
        assert driver.tell("get 1 5") == "None"
    driver.kill()
    check_folder(tmp_path, Allowed({0: {2}, 1: {None}, 2: {None}, 3: {None}}))


READ = "readv"


def forget(folder: Path) -> None:
    """Takes the files out of the kernel's memory, from where the tier would read without asking the disk."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=True).stdout
    if kind.strip() == "tmpfs":
        pytest.skip("files of a tmpfs are always in memory")
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def test_names_come_after_contents_and_acknowledgements_after_names(driver: Driver, tmp_path: Path) -> None:
    driver.open(tmp_path / "blocks")
    seen = tmp_path / "seen"
    with driver.tampered("write,fsync,renameat", seen=str(seen)):
        assert driver.tell("put 0 1 durable 1 1 durable") == "True"
    calls = [line.split()[1].partition("(")[0] for line in seen.read_text().splitlines() if "(" in line]
    # each block is the first in its folder, which is made when renaming fails; at the end come those folders, and once
    # the two that they are in
    assert calls == ["write"] * 2 + ["fsync"] * 2 + ["renameat"] * 4 + ["fsync"] * 4


def test_what_is_not_durable_is_not_flushed_and_what_is_goes_durably(driver: Driver, tmp_path: Path) -> None:
    driver.open(tmp_path)
    assert driver.tell("put 0 1 durable") == driver.tell("put 1 1 cache") == "True"
    with driver.tampered("fsync", "error=EIO"):
        assert driver.tell("put 1 2 cache") == "True" and driver.tell("delete 1") == "[True]"
        assert driver.tell("delete 0") == "None"
    assert driver.tell("get 0 5") == "None" and driver.tell("delete 0") == "[False]"


@pytest.mark.parametrize("how", ["error=EIO", "error=EMFILE"])
@pytest.mark.parametrize("call", [pytest.param("openat", marks=pytest.mark.slow), READ])
def test_a_disk_that_fails_to_read_is_misses(
    driver: Driver, tmp_path: Path, eventually: Callable[..., None], call: str, how: str
) -> None:
    driver.open(tmp_path)
    for number in range(4):
        assert driver.tell(f"put {number} 1 durable") == "True"
    forget(tmp_path)
    with driver.tampered(call, how):
        assert [driver.tell(f"get {number} 5") for number in range(4)] == ["None"] * 4
        assert driver.tell("healthy") == "False"
        if call == READ:
            assert driver.tell("put 0 2 durable") == "True"
    eventually(lambda: driver.tell("healthy") == "True")
    assert driver.tell("get 3 5") == "right 1"


def test_a_block_that_the_disk_cannot_read_goes(driver: Driver, tmp_path: Path) -> None:
    driver.open(tmp_path, threads=1)
    assert driver.tell("put 0 1 cache") == driver.tell("put 1 1 cache") == "True"
    forget(tmp_path)
    with driver.tampered(READ, "error=EIO:when=1"):
        assert driver.tell("get 0 5") == "None" and driver.tell("get 1 5") == "right 1"
    assert driver.tell("get 0 5") == "None" and driver.tell("healthy") == "True"
    driver.kill()
    check_folder(tmp_path, Allowed({0: {None}, 1: {1}, 2: {None}, 3: {None}}))


def test_a_call_interrupted_or_cut_short_goes_on(driver: Driver, tmp_path: Path) -> None:
    driver.open(tmp_path, threads=1)
    with driver.tampered("write", "error=EINTR:when=1"):
        assert driver.tell("put 0 1 durable") == "True"
    assert driver.tell("limit 8000") == "limited"
    # the limit lies within the file: one short write, then EFBIG
    assert driver.tell("put 1 1 durable") == "False"
    assert driver.tell("limit -1") == "limited"
    assert driver.tell("log") == "disk tier: writing fails with EFBIG"
    assert driver.tell("put 1 1 durable") == "True"
    driver.kill()
    check_folder(tmp_path, Allowed({0: {1}, 1: {1}, 2: {None}, 3: {None}}))


def test_a_full_disk_keeps_what_it_has_and_heals(driver: Driver, tmp_path: Path, eventually: Any) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        tmp_path.chmod(0o700)
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(190 << 10))
        driver.open(tmp_path)
        answers = [driver.tell(f"put {number % 8} 1 durable") for number in range(8)]
        assert answers[0] == "True" and answers[-3:] == ["False"] * 3
        assert driver.tell("healthy") == "False" and driver.tell("log") == "disk tier: writing fails with ENOSPC"
        assert driver.tell("get 0 5") == "right 1"
        ballast.unlink()
        eventually(lambda: driver.tell("healthy") == "True")
        assert driver.tell("put 7 1 durable") == "True" and driver.tell("get 7 5") == "right 1"
        driver.kill()
        assert not list((tmp_path / ".writing").iterdir())
    finally:
        if driver.pid:
            driver.kill()
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_takes_nothing_more_can_be_emptied(driver: Driver, tmp_path: Path, eventually: Any) -> None:
    driver.open(tmp_path)
    assert driver.tell("put 0 1 durable") == driver.tell("put 1 1 cache") == driver.tell("put 2 1 brief") == "True"
    # not even the smallest file
    driver.tell("limit 0")
    assert [driver.tell(f"put {number} 1 cache") for number in (3, 4, 5)] == ["False"] * 3
    assert driver.tell("healthy") == "False" and driver.tell("get 0 5") == "right 1"
    assert driver.tell("delete 0") == "[True]" and driver.tell("get 0 5") == "None"
    assert [driver.tell(f"put {number} 1 cache") for number in (3, 4, 5)] == ["False"] * 3
    eventually(lambda: not list(tmp_path.rglob(KEYS[2].hex())))
    assert driver.tell("healthy") == "False" and driver.tell("clear") == "1"
    assert not [path for key in KEYS for path in tmp_path.rglob(key.hex())]
    driver.tell("limit -1")
    eventually(lambda: driver.tell("healthy") == "True")
    assert driver.tell("put 0 2 durable") == "True"


def lasted(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def test_a_disk_that_hangs_holds_nobody_up(driver: Driver, tmp_path: Path, eventually: Callable[..., None]) -> None:
    driver.open(tmp_path, timeout=0.5)
    assert driver.tell("put 0 1 durable 1 1 durable") == "True"
    forget(tmp_path)
    with driver.tampered(READ, "delay_enter=3s"):
        assert lasted(lambda: driver.tell("get 0 0.2")) < 0.2 + 1
        assert lasted(lambda: driver.tell("get 0 60")) < 0.5 + 1
        # the threads that are left write on, and the kernel answers what it has in memory
        assert driver.tell("put 2 1 durable") == "True" and driver.tell("healthy") == "True"
        assert driver.tell("get 2 5") == "right 1"
        for _ in range(2):
            assert driver.tell("get 1 0.2") == "None"
        eventually(lambda: driver.tell("healthy") == "False")
        assert lasted(lambda: driver.tell("get 0 60")) < 0.1 + 1
        assert driver.tell("present 0") == "False"
        assert lasted(lambda: driver.tell("close")) < 0.5 + 1
    with suppress(AssertionError):
        driver.kill()
    driver.open(tmp_path)
    assert driver.tell("get 0 5") == driver.tell("get 2 5") == "right 1"


def test_a_flush_that_hangs_holds_no_reader_up_and_acknowledges_nothing(
    driver: Driver, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    driver.open(tmp_path, timeout=0.5)
    assert driver.tell("put 0 1 durable") == "True"
    with driver.tampered("fsync", "delay_enter=2s"):
        assert lasted(lambda: driver.tell("put 1 1 durable")) < 0.5 + 1
        assert driver.tell("put 1 1 durable") == "False"
        assert lasted(lambda: driver.tell("get 0 5")) < 1 and driver.tell("get 0 5") == "right 1"
    # the thread goes on at some time; nobody was told that its block is there, and so it is not
    eventually(lambda: driver.tell("healthy") == "True" and not list((tmp_path / ".writing").iterdir()))
    assert driver.tell("get 1 5") == "None"
    driver.kill()
    check_folder(tmp_path, Allowed({0: {1}, 1: {None}, 2: {None}, 3: {None}}))
