"""Blocks that several puts write together, over gRPC: threads and processes, each way, and a rank that is killed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cachestore.block import Part
from cachestore.errors import InvalidArgument, Unavailable
from cachestore.metrics import total
from cachestore.service import convert_put
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import Durability, PutStatus, Store
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same
from cachestore.testing.joint import EIGHT, JointPutTests, put_groups, ranks
from cachestore.wire import session_pb2
from tests.service.sessions import SOON, Attach

RANK = Path(__file__).with_name("rank_process.py")
SEEDS = iter(range(100, 1000))


class TestStream(JointPutTests):
    @pytest.fixture
    def store(self, server: CacheStoreServer) -> Iterator[Store]:
        with RemoteStore(server.address, transports=("stream",), frame_bytes=4096) as remote:
            yield remote


class TestBulk(JointPutTests):
    @pytest.fixture
    def store(self, bulk: RemoteStore) -> Store:
        return bulk


class TestWhicheverIsOpen(JointPutTests):
    @pytest.fixture
    def store(self, remote: RemoteStore) -> Store:
        return remote


class Rank:
    """One in a process."""

    def __init__(self, address: str, seed: int, groups: range, what: str = "commit") -> None:
        command = [sys.executable, str(RANK), what, address, str(seed), str(groups.start), str(groups.stop)]
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )

    def says(self) -> Any:
        """What it prints next."""
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline().strip()
        return line if line.isalpha() else json.loads(line)

    def goes_on(self) -> "Rank":
        """Says a line to it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()
        return self

    def kill(self) -> None:
        if self.popen.returncode is None:
            self.popen.kill()
            self.popen.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Rank]]:
    started: list[Rank] = []

    def begin(*arguments: Any) -> Rank:
        started.append(Rank(*arguments))
        return started[-1]

    yield begin
    for rank in started:
        rank.kill()


@pytest.mark.slow
def test_two_ranks_write_and_one_reads(
    server: CacheStoreServer, remote: RemoteStore, start: Callable[..., Rank]
) -> None:
    seed = next(SEEDS)
    keys, blocks = random_prompt(EIGHT, 4, seed)
    writing = [start(server.address, seed, groups) for groups in ranks(2)]
    answers = [status for rank in writing for status in rank.says()]
    assert (answers.count("stored"), answers.count("in_progress")) == (4, 4)
    with remote.read(keys) as reading:
        assert [same(found, wanted) for (found, _), wanted in zip(reading, blocks, strict=True)] == [True] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("writers", "readers"), [(1, 4), (4, 2)])
def test_ranks_write_and_ranks_read(
    server: CacheStoreServer, start: Callable[..., Rank], writers: int, readers: int
) -> None:
    seed = next(SEEDS)
    keys, blocks = random_prompt(EIGHT, 4, seed)
    writing = [start(server.address, seed, groups) for groups in ranks(writers)]
    answers = [status for rank in writing for status in rank.says()]
    assert answers.count("stored") == 4 and set(answers) <= {"stored", "in_progress"}

    def read(groups: range) -> list[bool]:
        part = Part(groups=groups)
        with RemoteStore(server.address) as store, store.read(keys, part=part) as reading:
            return [same(found, wanted, part) for (found, _), wanted in zip(reading, blocks, strict=True)]

    with ThreadPoolExecutor(readers) as threads:
        assert list(threads.map(read, ranks(readers))) == [[True] * 4] * readers


@pytest.mark.slow
@pytest.mark.parametrize(("writers", "readers"), [(4, 2), (2, 4)])
def test_ranks_that_wait_read_what_others_write_at_the_same_time(
    server: CacheStoreServer,
    remote: RemoteStore,
    start: Callable[..., Rank],
    eventually: Callable[[Callable[[], object]], None],
    writers: int,
    readers: int,
) -> None:
    seed = next(SEEDS)
    keys, _ = random_prompt(EIGHT, 4, seed)
    writing = [start(server.address, seed, groups, "hold") for groups in ranks(writers)]
    reading = [start(server.address, seed, groups, "read") for groups in ranks(readers)]
    assert [rank.says() for rank in (*writing, *reading)] == ["ready"] * (writers + readers)
    assert [rank.goes_on().says() for rank in writing] == ["reserved"] * writers
    puts = server.calls.used
    for rank in reading:
        rank.goes_on()
    # all of them wait in the store before anybody writes
    eventually(lambda: server.calls.used == puts + readers)
    for rank in writing:
        rank.goes_on()
    answers = [status for rank in writing for status in rank.says()]
    assert answers.count("stored") == 4 and set(answers) <= {"stored", "in_progress"}
    assert [rank.says() for rank in reading] == [[True] * 4] * readers
    assert remote.lookup(keys).ready == 4 and total(remote.stats(), "put_stored") == 4


def test_a_rank_that_is_killed_fails_the_blocks_for_all(
    server: CacheStoreServer,
    remote: RemoteStore,
    start: Callable[..., Rank],
    eventually: Callable[[Callable[[], object]], None],
) -> None:
    seed = next(SEEDS)
    keys, blocks = random_prompt(EIGHT, 4, seed)
    killed = start(server.address, seed, range(0, 4), "leave")
    assert killed.says() == "ready"
    with remote.put(keys.fingerprint, plans_of(blocks), groups=range(4, 6)) as writing:
        assert put_groups(remote, keys.fingerprint, blocks, range(6, 8)) == [PutStatus.IN_PROGRESS] * 4
        killed.kill()
        eventually(lambda: remote.lookup(keys).writing == 0)
        for number, block in enumerate(blocks):
            own = [data for plane, data in zip(block.planes, block.data, strict=True) if plane.group in range(4, 6)]
            for plane, data in enumerate(own):
                writing.write(number, plane, data)
        writing.commit()
        assert [answer.status for answer in writing.answers] == [PutStatus.FAILED] * 4
    assert total(remote.stats(), "blocks_incomplete") == 4
    statuses = [put_groups(remote, keys.fingerprint, blocks, groups) for groups in ranks(2)]
    assert statuses[-1] == [PutStatus.STORED] * 4
    with remote.read(keys) as reading:
        assert all(same(found, wanted) for (found, _), wanted in zip(reading, blocks, strict=True))


def test_memory_is_lent_to_one_writer_at_a_time(shared: RemoteStore, attach: Attach, tiered: TieredStore) -> None:
    keys, blocks = random_prompt(EIGHT, 1)
    with pytest.raises(Unavailable, match="no way"):
        shared.put(keys.fingerprint, plans_of(blocks), groups=range(0, 4))
    # all groups there are are a whole block
    assert put_groups(shared, keys.fingerprint, blocks, range(0, 8)) == [PutStatus.STORED]
    asked = convert_put.Reservation(
        keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None, None, range(0, 4)
    )
    with pytest.raises(InvalidArgument, match="groups"):
        attach().ask(session_pb2.SessionRequest(reserve=convert_put.reserve_message(asked)), SOON)
