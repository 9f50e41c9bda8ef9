"""A peer that moves nothing is cut off, and everybody else goes on."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.errors import CacheStoreError
from cachestore.service import convert
from cachestore.service.bulk.format import ANSWER, GO, REQUEST, TICKET
from cachestore.service.client import RemoteStore
from cachestore.service.convert_put import Reservation, reserve_message
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.service.stream import frames
from cachestore.store.base import Durability, put_blocks
from cachestore.testing import plans_of, random_prompt, small_spec
from cachestore.wire import store_pb2 as wire

STALL = 1.0
LARGE = BlockSpec("test/large", "r0", "float16", tuple(Slot(8, 128, 128) for _ in range(8)), head_groups=8)
"""Blocks of 2 MiB, more than a connection takes while nobody reads from it."""


@pytest.fixture
def server(serve: Callable[..., CacheStoreServer]) -> CacheStoreServer:
    return serve(stall=STALL)


def reading(channel: grpc.Channel, keys: Any) -> Any:
    """A read whose answers nobody takes yet."""
    read = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString)
    return read(wire.ReadRequest(chain=convert.chain_message(keys)), timeout=60)


def test_a_reader_that_takes_nothing_is_cut_off(server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    with (
        RemoteStore(server.address, transports=("stream",)) as remote,
        grpc.insecure_channel(server.address) as channel,
    ):
        put_blocks(remote, keys.fingerprint, blocks)
        call = reading(channel, keys)
        next(call)
        assert server.calls.used == 1 and server.bytes_in_flight.used > 0
        # others read at the same time, as ever
        while server.calls.used:
            with remote.read(keys, timeout=10) as good:
                assert len(list(good)) == 12
        assert server.bytes_in_flight.used == 0
        with pytest.raises(grpc.RpcError) as cut:
            list(call)
        assert cut.value.code() is grpc.StatusCode.CANCELLED
    (stalled,) = server.stalls.counters.figures()
    assert (stalled.name, stalled.value) == ("calls_stalled", 1)


def test_a_writer_that_sends_nothing_is_cut_off_and_its_memory_freed(
    server: CacheStoreServer, tiered: Any, eventually: Callable[[Callable[[], object]], None]
) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    with RemoteStore(server.address, transports=("stream",)) as remote:
        put = remote.put(keys.fingerprint, plans_of(blocks), timeout=60)
        put.write(0, 0, blocks[0].data[0])
        eventually(lambda: remote.lookup(keys).writing == 2)
        assert tiered.memory.usage().used >= 4 << 20
        eventually(lambda: remote.lookup(keys).writing == 0)
        eventually(lambda: tiered.memory.usage().used == 0 and not server.bytes_in_flight.used)
        with pytest.raises(Exception, match="Write"):
            put.commit()
        put.abort()
        # and the same blocks may be put again
        assert {answer.status.value for answer in put_blocks(remote, keys.fingerprint, blocks)} == {"stored"}


@pytest.mark.slow
def test_whoever_goes_on_slowly_is_not_cut_off(server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 6)
    with (
        RemoteStore(server.address, transports=("stream",)) as remote,
        grpc.insecure_channel(server.address) as channel,
    ):
        with remote.put(keys.fingerprint, plans_of(blocks), timeout=60) as put:
            for index, block in enumerate(blocks):
                time.sleep(STALL / 4)
                for plane, data in enumerate(block.data):
                    put.write(index, plane, data)
            put.commit()
        answers: Iterator[bytes] = reading(channel, keys)
        taken = 0
        for count, answer in enumerate(answers):
            taken += len(answer)
            if count % 4 == 0:
                time.sleep(STALL / 4)
        assert taken > 12 << 20
    assert not list(server.stalls.counters.figures())


def test_no_thread_is_left(serve: Callable[..., CacheStoreServer]) -> None:
    server = serve(stall=STALL)
    name = "cachestore-stalls"
    assert name in {thread.name for thread in threading.enumerate()}
    server.close()
    assert name not in {thread.name for thread in threading.enumerate()}


def test_one_call_that_stalls_harms_no_other_of_its_connection(server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    small, more = random_prompt(small_spec(), 2)
    with RemoteStore(server.address, transports=("stream",)) as remote:
        put_blocks(remote, keys.fingerprint, blocks)
        put_blocks(remote, small.fingerprint, more)
        with remote.read(keys, timeout=30) as still:
            iterator = iter(still)
            next(iterator)
            until = time.monotonic() + 2 * STALL
            while time.monotonic() < until:
                assert remote.lookup(small).ready == 2
            # what was cut off is a read that ends early, as any other miss
            assert len(list(iterator)) < 11


def test_a_writer_whose_planes_travel_another_way_is_not_cut_off(server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    with RemoteStore(server.address, transports=("bulk",)) as remote:
        with remote.put(keys.fingerprint, plans_of(blocks), timeout=30) as put:
            for index, block in enumerate(blocks):
                for plane, data in enumerate(block.data):
                    if plane % 32 == 0:
                        time.sleep(STALL / 4)
                    put.write(index, plane, data)
            put.commit()
        assert remote.lookup(keys).ready == 2
    assert not list(server.stalls.counters.figures())


@pytest.mark.parametrize("shown", [False, True])
def test_a_writer_that_goes_neither_way_is_cut_off(
    server: CacheStoreServer, eventually: Callable[..., None], shown: bool
) -> None:
    """It was offered another way, and never came there, or left; its stream lasts for as long as it likes."""
    keys, blocks = random_prompt(small_spec(), 1)
    reserve = reserve_message(Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None))
    reserve.bulk = True
    over = threading.Event()

    def requests() -> Iterator[bytes]:
        yield wire.WriteRequest(reserve=reserve).SerializeToString()
        over.wait(60)

    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(f"/{SERVICE}/Write")(requests(), timeout=60)
        offer = wire.WriteResponse.FromString(next(call)).bulk
        if shown:
            with socket.create_connection(("127.0.0.1", server.bulk.port)) as line:
                line.sendall(REQUEST.pack(TICKET, 0, offer.ticket))
                assert line.recv(ANSWER.size) == ANSWER.pack(GO, 0)
        assert server.calls.used == 1
        eventually(lambda: not server.calls.used, 5)
        assert call.code() is grpc.StatusCode.CANCELLED
        over.set()


@pytest.mark.slow
def test_a_writer_whose_planes_do_not_come_another_way_either_is_cut_off(
    server: CacheStoreServer, tiered: Any, eventually: Callable[[Callable[[], object]], None]
) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    with RemoteStore(server.address, transports=("bulk",)) as remote:
        with remote.put(keys.fingerprint, plans_of(blocks), timeout=60) as put:
            put.write(0, 0, blocks[0].data[0])
            assert tiered.memory.usage().used >= 4 << 20 and server.bulk.guests
            eventually(lambda: not (server.calls.used or server.bulk.guests or tiered.memory.usage().used))
            with pytest.raises(CacheStoreError):
                put.commit()
        assert {answer.status.value for answer in put_blocks(remote, keys.fingerprint, blocks)} == {"stored"}
