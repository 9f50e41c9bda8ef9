"""Memory that is lent to who writes in a session: what may be laid there, and when it is the store's again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.codecs import create
from cachestore.errors import (
    CacheStoreError,
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
)
from cachestore.eviction.lru import Lru
from cachestore.metrics import total
from cachestore.service import convert, convert_put
from cachestore.service.auth import tokens
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared.client import Lost, SharedSession
from cachestore.store.base import Durability, PutStatus, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec, write_blocks
from cachestore.tiers.cpu import Cpu
from cachestore.wire import session_pb2, store_pb2
from tests.service.sessions import SOON, WRITER, Attach, commit, holds, lookup, read, reserve, rows, used

FORGED: dict[str, Callable[[Any], None]] = {
    "another slot": lambda table: table["slot"].__setitem__(0, 7),
    "not laid": lambda table: table["raw_bytes"].__setitem__(0, 0),
    "outside": lambda table: table["offset"].__setitem__(0, 1 << 30),
    "wrapping": lambda table: table["offset"].__setitem__(0, (1 << 64) - 64),
    "beyond the end": lambda table: table["offset"].__setitem__(0, int(table["offset"].max()) + 64 * 1024),
    "overlapping": lambda table: table["offset"].__setitem__(1, table["offset"][0]),
    "not aligned": lambda table: table["offset"].__setitem__(7, table["offset"][7] + 8),
    "nothing stored": lambda table: table["stored_bytes"].__setitem__(0, 0),
    "more stored": lambda table: table["stored_bytes"].__setitem__(0, table["raw_bytes"][0] + 1),
    "unknown codec": lambda table: table["codec"].__setitem__(0, 99),
    "raw but short": lambda table: table["stored_bytes"].__setitem__(0, 8),
    "raw but two checksums": lambda table: table["raw_checksum"].__setitem__(0, 1),
    "padding": lambda table: table["zero"].__setitem__(0, 1),
    "nothing": lambda table: table.view(np.uint8).fill(0),
    "noise": lambda table: table.view(np.uint8).fill(255),
}


@pytest.mark.parametrize("wrong", ["", *FORGED])
def test_a_forged_table_fails_its_block(attach: Attach, tiered: TieredStore, wrong: str) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    session = attach()
    answer = reserve(session, keys, blocks)
    table = rows(answer, session, blocks)
    if wrong:
        FORGED[wrong](table)
    expected = [PutStatus.FAILED if wrong else PutStatus.STORED]
    assert commit(session, answer.write.put, 0) == expected
    assert lookup(session, keys) == (not wrong)
    if wrong:
        assert used(tiered) == 0
    check_sums(tiered.namespace("default").stats())


def test_a_sealing_store_keeps_nothing_that_its_writer_can_reach(attach: Attach, tiered: TieredStore) -> None:
    tiered.sealed = True
    keys, blocks = random_prompt(small_spec(), 1)
    session = attach()
    answer = reserve(session, keys, blocks)
    slot = session.places(answer.places)[0].bytes
    rows(answer, session, blocks)
    assert commit(session, answer.write.put, 0) == [PutStatus.STORED]
    slot[:] = 0xFF
    with tiered.namespace("default").read(keys) as reading:
        assert [same(block, blocks[0]) for block, _ in reading] == [True]
    tiered.check()
    others, theirs = random_prompt(small_spec(), 1, seed=9)
    answer = reserve(session, others, theirs)
    rows(answer, session, theirs)
    session.places(answer.places)[0].bytes[-1] ^= 1
    # what the memory holds is not what the table says
    assert commit(session, answer.write.put, 0) == [PutStatus.FAILED]
    assert lookup(session, others) == 0
    tiered.sealed = False


def test_a_slot_is_not_used_again_while_its_writer_may_write(
    calm: CacheStoreServer, attach: Attach, tiered: TieredStore
) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    session = attach()
    answer = reserve(session, keys, blocks, timeout=1.0)
    store = tiered.namespace("default")
    held = used(tiered)
    holds(lambda: store.puts_open == 0)
    # its time is over: nobody sees it, others may put the same block, and its memory is still its writer's
    assert used(tiered) == held > 0 and store.lookup(keys).writing == 0
    put_blocks(store, keys.fingerprint, blocks)
    assert used(tiered) == 2 * held
    with pytest.raises(CacheStoreError):
        rows(answer, session, blocks)
        commit(session, answer.write.put, 0)
    holds(lambda: used(tiered) == held)
    answer = reserve(session, *random_prompt(small_spec(), 1, seed=3))
    store.abort(answer.write.put)
    assert used(tiered) == 2 * held
    session.close()
    holds(lambda: used(tiered) == held)
    check_sums(store.stats())


def test_one_put_at_a_time(attach: Attach) -> None:
    session = attach()
    reserve(session, *random_prompt(small_spec(), 1))
    with pytest.raises(InvalidArgument, match="one put open"):
        reserve(session, *random_prompt(small_spec(), 1, seed=2))


@pytest.mark.parametrize("alike", [False, True])
def test_one_answer_is_for_many_blocks_only_where_the_writer_reads_that(attach: Attach, alike: bool) -> None:
    keys, blocks = random_prompt(small_spec(), 4)
    asked = convert_put.Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None)
    message = convert_put.reserve_message(asked)
    message.alike = alike
    answer = attach().ask(session_pb2.SessionRequest(reserve=message), SOON)
    assert len(answer.write.answers) == (1 if alike else 4)
    assert [each.status for each in convert_put.answers(answer.write.answers)] == [PutStatus.WANTED] * 4


@pytest.mark.parametrize("then", ["commit", "abort", "refused"])
def test_a_commit_that_is_refused_spoils_nothing(
    server: CacheStoreServer, shared: RemoteStore, tiered: TieredStore, then: str
) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    put = shared.put(keys.fingerprint, plans_of(blocks), timeout=SOON)
    write_blocks(put, blocks)
    with server.calls.hold(server.calls.limit):
        with pytest.raises(Overloaded):
            put.commit()
        if then == "refused":
            # as the abort is, which nobody is told
            put.abort()
    if then == "commit":
        put.commit()
        assert [answer.status for answer in put.answers] == [PutStatus.STORED] * 2
        assert shared.lookup(keys).ready == 2
    put.abort()
    if then != "commit":
        holds(lambda: not used(tiered))
    for seed in (2, 3):
        others, theirs = random_prompt(small_spec(), 1, seed=seed)
        assert put_blocks(shared, others.fingerprint, theirs)[0].status is PutStatus.STORED
    check_sums(tiered.namespace("default").stats())


def test_a_reader_that_is_killed_while_it_waits_holds_nothing(server: CacheStoreServer, tiered: TieredStore) -> None:
    keys, blocks = random_prompt(small_spec(), 8)
    script = Path(__file__).with_name("shared_process.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script), "wait", server.address, "0"]
    with tiered.namespace("default").put(keys.fingerprint, plans_of(blocks), timeout=60.0):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as client:
            assert client.stdout is not None and client.stdout.readline() == b"ready\n"
            holds(lambda: server.calls.used > 0)
            client.send_signal(signal.SIGKILL)
            client.wait(SOON)
        holds(lambda: not server.calls.used and not total(server.figures(), "sessions"))


@pytest.mark.parametrize("what", ["write", "read"])
def test_a_killed_client_leaves_nothing(server: CacheStoreServer, tiered: TieredStore, what: str) -> None:
    keys, blocks = random_prompt(small_spec(), 8)
    store = tiered.namespace("default")
    if what == "read":
        put_blocks(store, keys.fingerprint, blocks)
    script = Path(__file__).with_name("shared_process.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script), what, server.address, "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as client:
        assert client.stdout is not None and client.stdout.readline() == b"ready\n"
        before = used(tiered)
        assert (store.lookup(keys).ready, store.lookup(keys).writing) == ((3, 5) if what == "write" else (8, 0))
        client.send_signal(signal.SIGKILL)
        client.wait(SOON)
    if what == "write":
        holds(lambda: store.lookup(keys) == (3, store.lookup(keys).runs, 0) and used(tiered) < before)
        holds(lambda: tiered.memory.usage().used == sum(e.slot.size for e in tiered.index.everything()))
        with store.read(keys) as reading:
            assert all(map(same, (block for block, _ in reading), blocks))
        assert total(store.stats(), "put_aborted") == 5
        # what it left is the namespace's by now, and goes when it is empty
        assert store.delete(keys) == 3
        assert used(tiered) == 0
    else:
        with tiered.index.changed:
            (lease,) = tiered.leases._open
        store.renew(lease, 0.05)
        holds(lambda: not total(store.stats(), "leases_open"))
        assert total(store.stats(), "read_expired") == 8
    check_sums(store.stats())


def test_closing_the_server_ends_sessions_and_their_puts(tiered: TieredStore) -> None:
    server = CacheStoreServer(tiered, ServiceSettings(port=0))
    server.open()
    path, ticket = server.sessions.attach(WRITER, True)
    session = SharedSession(path, {}, lambda: True)
    session.open(ticket, SOON)
    reserve(session, *random_prompt(small_spec(), 2))
    assert used(tiered)
    server.close(0.0)
    assert used(tiered) == 0 and not Path(path).parent.exists()
    with pytest.raises(Lost):
        lookup(session, random_prompt(small_spec(), 1)[0])


def test_memory_of_writers_stays_within_the_cap() -> None:
    memory = Cpu(4 << 20).start()
    with (
        TieredStore(memory, (), create("raw"), Lru()) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
    ):
        stores = [RemoteStore(server.address, transports=("shared",)) for _ in range(4)]
        spec = small_spec(block_tokens=256)
        for number in range(40):
            store = stores[number % 4]
            store.open()
            keys, blocks = random_prompt(spec, 4, seed=number)
            answers = put_blocks(store, keys.fingerprint, blocks)
            assert [answer.status for answer in answers] == [PutStatus.STORED] * 4
            assert memory.taken <= memory.capacity
            with stores[(number + 1) % 4] as reader, reader.read(keys) as reading:
                assert all(map(same, (block for block, _ in reading), blocks))
        for store in stores:
            store.close()
        figures = tiered.namespace("default").stats()
        check_sums(figures)
        assert total(figures, "evicted") > 0
        tiered.check()


@pytest.mark.parametrize("expired", [False, True])
def test_a_session_beyond_its_time_only_ends_its_put(
    attach: Attach, tiered: TieredStore, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    """Its client may be writing to memory of the store, so it is not sent away, and told nothing either.

    Nothing more of the put is stored once what its client showed has expired by every clock.
    """
    if expired:
        monkeypatch.setattr(tokens, "SKEW", 0.05)
    keys, blocks = random_prompt(small_spec(), 2)
    put_blocks(tiered.namespace("default"), keys.fingerprint, blocks)
    others, theirs = random_prompt(small_spec(), 2, seed=2)
    ends = time.time() + 1.5
    writer = attach(Identity("w", "default", Role.writer, expires=ends))
    answer = reserve(writer, others, theirs)
    rows(answer, writer, theirs)
    time.sleep(max(0.0, ends + 0.1 - time.time()))
    for ask in (lookup, read):
        with pytest.raises(PermissionDenied, match="time is over"):
            ask(writer, keys)
    if expired:
        with pytest.raises(DeadlineExceeded):
            commit(writer, answer.write.put, 0)
        assert writer.usable
    else:
        assert commit(writer, answer.write.put, 0) == [PutStatus.STORED] and writer.usable
    abort = session_pb2.SessionRequest(abort=store_pb2.AbortRequest(put=answer.write.put))
    assert writer.ask(abort, SOON).abort.blocks == (0 if expired else 1)
    holds(lambda: not writer.usable)
    assert tiered.namespace("default").lookup(others).ready == (0 if expired else 1)


def test_a_wait_ends_with_what_its_reader_showed(
    attach: Attach, tiered: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SKEW", 0.1)
    keys, blocks = random_prompt(small_spec(), 1)
    with tiered.namespace("default").put(keys.fingerprint, plans_of(blocks), timeout=60.0):
        ends = time.time() + 1.0
        reader = attach(Identity("r", "default", Role.reader, expires=ends), writer=False)
        waits = store_pb2.ReadRequest(chain=convert.chain_message(keys), wait_ms=30_000)
        with suppress(CacheStoreError):
            assert not reader.ask(session_pb2.SessionRequest(read=waits), 30.0).places.slabs
        assert time.time() < ends + 0.1 + 1
