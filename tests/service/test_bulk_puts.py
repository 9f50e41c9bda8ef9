"""Puts over the bulk path: what cannot be, and how they end."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.errors import Aborted, DeadlineExceeded, Unavailable
from cachestore.metrics import total
from cachestore.service.bulk.format import ANSWER, COMMIT, FRAME, GO, RAW
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import PutStatus
from cachestore.testing import plans_of, random_prompt
from cachestore.wire import store_pb2 as wire
from tests.service.bulk_lines import LARGE, Raw, eventually, figure, reserved


@pytest.mark.parametrize(
    "said",
    [
        FRAME.pack(b"junk", 0, 0, 1),
        FRAME.pack(RAW, 7, 0, 1),
        FRAME.pack(RAW, 0, 0, 3),
        FRAME.pack(RAW, 0, 1, 1 << 31),
        FRAME.pack(RAW, 0, 1 << 31, 1),
        FRAME.pack(RAW, 0, 0, 0),
        FRAME.pack(b"KVCD", 0, 0, 1) + (9).to_bytes(8, "little") + (5).to_bytes(8, "little"),
        FRAME.pack(b"KVCD", 0, 0, 1) + (1).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little"),
        FRAME.pack(b"KVCD", 0, 0, 1) + bytes(16),
        FRAME.pack(COMMIT, 1 << 31, 0, 0),
        FRAME.pack(COMMIT, 4, 0, 0) + b"\xff\xff\xff\xff",
        FRAME.pack(RAW, 0, 0, 1) + bytes(1000),
    ],
)
def test_a_put_that_says_what_cannot_be(
    raw: Raw, server: CacheStoreServer, bulk: RemoteStore, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    line, end = reserved(server, raw, blocks, keys)
    line.send(said, Deadline.after(5))
    if said.endswith(bytes(1000)):
        line.close()
    else:
        assert raw.ended(line)
    eventually(lambda: figure(server, "bulk_broken") == 1)
    end()
    eventually(lambda: not bulk.lookup(keys).writing)
    assert bulk.lookup(keys).ready == 0 and total(bulk.stats(), "put_open") == 0
    assert not caplog.records


def test_planes_whose_checksums_do_not_hold_fail_their_block(raw: Raw, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    line, end = reserved(server, raw, blocks, keys)
    deadline = Deadline.after(5)
    for plane, data in enumerate(blocks[0].data):
        line.send(FRAME.pack(RAW, 0, plane, 1) + data.tobytes() + bytes(8), deadline)
    commit = wire.Commit(blocks=[0]).SerializeToString()
    line.send(FRAME.pack(COMMIT, len(commit), 0, 0) + commit, deadline)
    word, size = ANSWER.unpack(line.take(ANSWER.size, deadline))
    response = wire.WriteResponse.FromString(line.take(size, deadline))
    assert word == GO and [answer.status for answer in response.answers] == [wire.FAILED]
    end()


def test_an_abort_amid_a_write_takes_no_slot_that_is_written_to(
    raw: Raw, server: CacheStoreServer, bulk: RemoteStore, tiered: Any
) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    line, end = reserved(server, raw, blocks, keys)
    line.send(FRAME.pack(RAW, 0, 0, 2) + bytes(1 << 19), Deadline.after(5))
    (put,) = tiered.namespace("default").puts.values()
    eventually(lambda: tiered.index.everything() and tiered.index.everything()[0].users)
    begun = time.monotonic()
    assert bulk.abort(put.id) == 1 and time.monotonic() - begun < 3
    assert bulk.lookup(keys).writing == 0
    # the slot is still the connection's: nobody else may have it
    assert tiered.memory.usage().used > 0
    line.close()
    eventually(lambda: tiered.memory.usage().used == 0)
    end()


def test_a_put_that_was_aborted_says_so(bulk: RemoteStore, tiered: Any) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    with bulk.put(keys.fingerprint, plans_of(blocks)) as put:
        put.write(0, 0, blocks[0].data[0])
        bulk.abort(next(iter(tiered.namespace("default").puts)))
        with pytest.raises(Aborted):
            put.commit()


def test_a_put_whose_time_is_over(bulk: RemoteStore) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    begun = time.monotonic()
    with (
        pytest.raises((DeadlineExceeded, Unavailable)),
        bulk.put(keys.fingerprint, plans_of(blocks), timeout=0.5) as put,
    ):
        put.write(0, 0, blocks[0].data[0])
        time.sleep(0.6)
        put.write(0, 1, blocks[0].data[1])
        put.commit()
    assert time.monotonic() - begun < 1.6
    eventually(lambda: total(bulk.stats(), "puts_open") == 0)


def test_an_abort_from_another_thread_ends_a_write(server: CacheStoreServer, bulk: RemoteStore) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    put = bulk.put(keys.fingerprint, plans_of(blocks))
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(
            lambda: [put.write(n, p, d) for n, b in enumerate(blocks) for p, d in enumerate(b.data)]
        )
        put.abort()
        with suppress(Aborted, Unavailable):
            writing.result(10)
    assert {answer.status for answer in put.answers} == {PutStatus.FAILED}
    eventually(lambda: not bulk.lookup(keys).writing and total(bulk.stats(), "puts_open") == 0)
