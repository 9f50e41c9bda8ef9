"""Reading blocks while they are written, over gRPC."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import grpc
import numpy as np
import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.codecs import create
from cachestore.codecs.planes import encode_plane
from cachestore.errors import Overloaded
from cachestore.metrics import total
from cachestore.service import convert
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.stream import frames
from cachestore.service.stream.frames import BlockFrame, PlaneFrame
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks
from cachestore.testing.provisional import FollowingTests, right
from cachestore.wire import store_pb2 as wire
from tests.faults.proxy import Proxy

SHARED = Path(__file__).with_name("shared_process.py")

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=640)
"""Two planes of 2.5 MiB: each takes several frames."""


class TestFollowing(FollowingTests):
    @pytest.fixture
    def store(self, server: CacheStoreServer) -> Iterator[RemoteStore]:
        with RemoteStore(server.address, transports=("stream",)) as store:
            yield store


class TestFollowingSharedMemory(FollowingTests):
    """The writer lays planes into the store's memory, and sends no word of them."""

    @pytest.fixture
    def store(self, server: CacheStoreServer) -> Iterator[RemoteStore]:
        with RemoteStore(server.address, transports=("shared", "stream")) as store:
            yield store


@pytest.fixture
def quiet(tiered: TieredStore, server: CacheStoreServer) -> Callable[[], bool]:
    """Whether nothing is followed any more, after waiting for that."""

    def wait() -> bool:
        until = time.monotonic() + 10
        while not (tiered.journals.quiet and server.calls.used == 0) and time.monotonic() < until:
            time.sleep(0.01)
        return tiered.journals.quiet

    return wait


def answers(channel: grpc.Channel, request: wire.ReadRequest) -> grpc.Call:
    """The answers to a Read as they come."""
    read = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, frames.read_response)
    return read(request, timeout=20)


@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_bytes_that_came_do_not_travel_again(channel: grpc.Channel, tiered: TieredStore, codec: str) -> None:
    store = tiered.namespace("default")
    keys, blocks = random_prompt(small_spec(), 2)
    assert put_blocks(store, keys.fingerprint, blocks[1:])
    request = wire.ReadRequest(chain=convert.chain_message(keys), wait_ms=10_000, provisional=True)
    with store.put(keys.fingerprint, plans_of(blocks), codec=create(codec)) as put:
        put.write(0, 0, np.concatenate(blocks[0].data))
        call = answers(channel, request)
        assert next(call).began.block == 0
        planes = 0
        while planes < 8:
            frame = next(call)
            assert isinstance(frame, PlaneFrame) and frame.head.block == 0
            planes += len(frame.head.segments)
        put.commit()
    ended, granted, *rest = call
    assert (ended.published.block, ended.published.aborted) == (0, False) and granted.HasField("granted")
    assert (rest[0].start.known, rest[1].end.block) == (True, 0)
    assert (rest[2].start.known, rest[-1].end.block) == (False, 1)
    assert all(isinstance(answer, BlockFrame) for answer in rest[3:-1])


def test_planes_larger_than_a_frame(server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    with RemoteStore(server.address, transports=("stream",)) as remote:
        for codec in ("raw", "lz4"):
            with (
                remote.put(keys.fingerprint, plans_of(blocks), codec=create(codec)) as put,
                remote.read(keys, wait=10.0, provisional=True) as reading,
            ):
                write_blocks(put, blocks)
                planes = reading.planes()
                early = list(islice(planes, 3))
                put.commit()
                assert [right(plane, blocks) for plane in [*early, *planes]] == [True] * 4
                assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)] == [True] * 2
            assert remote.delete(keys) == 2


def test_a_connection_that_breaks_is_taken_up_again(tiered: TieredStore, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    with (
        Proxy(server.address) as proxy,
        RemoteStore(proxy.address, transports=("stream",)) as remote,
        tiered.namespace("default").put(keys.fingerprint, plans_of(blocks)) as put,
        remote.read(keys, wait=10.0, provisional=True) as reading,
    ):
        put.write(0, 0, blocks[0].data[0])
        planes = reading.planes()
        came = [next(planes)]
        assert proxy.reset()
        put.write(1, 0, np.concatenate(blocks[1].data))
        came += islice(planes, 8)
        put.commit([1])
        assert proxy.reset()
        put.write(0, 1, np.concatenate(blocks[0].data[1:]))
        came += islice(planes, 6)
        put.commit()
        came += planes
        assert sorted(plane[:2] for plane in came) == [(block, plane) for block in range(2) for plane in range(8)]
        assert all(right(plane, blocks) for plane in came)
        assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)] == [True] * 2
    assert total(tiered.namespace("default").stats(), "read_hits") == 2


def test_a_writer_that_goes_away_ends_the_planes(server: CacheStoreServer, remote: RemoteStore) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    with remote.read(keys, wait=10.0, provisional=True) as reading:
        with RemoteStore(server.address, transports=("stream",)) as writer:
            put = writer.put(keys.fingerprint, plans_of(blocks))
            write_blocks(put, blocks)
            planes = reading.planes()
            assert right(next(planes), blocks)
        begun = time.monotonic()
        assert all(right(plane, blocks) for plane in planes)
        assert list(reading) == [] and time.monotonic() - begun < 5


def test_a_writer_on_this_node_that_is_killed_ends_the_planes(server: CacheStoreServer, remote: RemoteStore) -> None:
    keys, blocks = random_prompt(small_spec(), 8)
    command = [sys.executable, str(SHARED), "write", server.address, "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer,
        remote.read(keys, wait=60.0, provisional=True, timeout=60.0) as reading,
    ):
        try:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            planes = reading.planes()
            came = list(islice(planes, 64))
            assert len(came) == 64 and all(right(plane, blocks) for plane in came)
        finally:
            writer.kill()
        begun = time.monotonic()
        assert list(planes) == [] and list(reading) == [] and time.monotonic() - begun < 5


def test_a_reader_that_goes_away_is_forgotten(
    tiered: TieredStore,
    server: CacheStoreServer,
    remote: RemoteStore,
    quiet: Callable[[], bool],
    eventually: Callable[[Callable[[], object]], None],
) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    with tiered.namespace("default").put(keys.fingerprint, plans_of(blocks)) as put:
        write_blocks(put, blocks)
        with remote.read(keys, wait=10.0, provisional=True) as reading:
            assert right(next(reading.planes()), blocks)
        # else it may be told of what is published now, before the store hears that it left
        eventually(lambda: server.calls.used == 0)
        put.commit()
    assert quiet()
    other, _ = random_prompt(small_spec(), 1, seed=2)
    with remote.read(other, wait=10.0, provisional=True) as reading, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, reading.planes(), None)
        eventually(lambda: server.calls.used == 1 or waiting.done())
        remote.close()
        waiting.exception(10)
    assert quiet()
    # and no lease was opened for it
    figures = tiered.namespace("default").stats()
    assert total(figures, "leases_open") == total(figures, "read_blocks") == 0


def test_a_follower_that_takes_nothing_hurts_nobody(
    tiered: TieredStore, server: CacheStoreServer, channel: grpc.Channel, quiet: Callable[[], bool]
) -> None:
    store = tiered.namespace("default")
    keys, blocks = random_prompt(LARGE, 6)
    request = wire.ReadRequest(chain=convert.chain_message(keys), wait_ms=10_000, provisional=True)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        call = answers(channel, request)
        assert next(call).began.block == 0
        begun = time.monotonic()
        write_blocks(put, blocks)
        put.commit()
        assert time.monotonic() - begun < 5
    assert server.bytes_in_flight.used <= 2 << 20
    with RemoteStore(server.address) as other, other.read(keys) as reading:
        assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)] == [True] * 6
    # its planes are in their slots no more
    assert store.delete(keys) == 6
    call.cancel()
    assert quiet()


def test_a_plane_that_does_not_hold_is_not_shown(tiered: TieredStore, server: CacheStoreServer) -> None:
    """A writer may say anything of the raw bytes of a coded plane: only who decodes it finds out."""
    keys, blocks = random_prompt(small_spec(), 2)
    with (
        tiered.namespace("default").put(keys.fingerprint, plans_of(blocks)) as put,
        RemoteStore(server.address, transports=("stream",)) as remote,
        remote.read(keys, wait=10.0, provisional=True) as reading,
    ):
        for number, block in enumerate(blocks):
            for plane, data in enumerate(block.data):
                data[:] = plane
                encoded = encode_plane(create("lz4"), data, block.planes[plane])
                lie = (number, plane) == (1, 3)
                put.write_encoded(number, plane, encoded._replace(raw_checksum=encoded.raw_checksum ^ lie))
        planes = reading.planes()
        early = list(islice(planes, 15))
        put.commit()
        assert list(planes) == [] and all(right(plane, blocks) for plane in early)
        assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=False)] == [True]
    figures = tiered.namespace("default").stats()
    assert total(figures, "read_hits") == 1 and total(figures, "read_corrupt") == 1


def test_a_writer_that_changes_its_generation_holds_no_call(tiered: TieredStore, channel: grpc.Channel) -> None:
    """A writer on this node may write to all of its memory."""
    keys, blocks = random_prompt(small_spec(), 1)
    request = wire.ReadRequest(chain=convert.chain_message(keys), wait_ms=500, provisional=True)
    with tiered.namespace("default").put(keys.fingerprint, plans_of(blocks), timeout=60) as put:
        write_blocks(put, blocks)
        (entry,) = tiered.index.everything()
        words, word, generation = entry.slot.slab.words, entry.slot.offset // 8, entry.slot.generation
        words[word] = generation + 1000
        try:
            call = answers(channel, request)
            assert next(call).began.block == 0
            assert not any(isinstance(answer, PlaneFrame) for answer in call)
        finally:
            words[word] = generation


def test_followers_count_as_calls(serve: Callable[..., CacheStoreServer]) -> None:
    server = serve(max_concurrent=1)
    keys, _ = random_prompt(small_spec(), 1)
    with RemoteStore(server.address) as remote, ThreadPoolExecutor(1) as thread:
        with remote.read(keys, wait=1.0, provisional=True) as reading:
            waiting = thread.submit(next, reading.planes(), None)
            time.sleep(0.2)
            with pytest.raises(Overloaded, match="concurrent calls"):
                remote.lookup(keys)
            assert waiting.result(10) is None


@pytest.mark.parametrize(
    "message",
    [
        wire.ReadResponse(began=wire.Began(block=0)),
        wire.ReadResponse(planes=wire.PlaneFrame(block=3, segments=[{"plane": 1}], data=b"x")),
        wire.ReadResponse(published=wire.Published(block=1, aborted=True)),
    ],
)
def test_messages_written_by_others_are_understood(message: wire.ReadResponse) -> None:
    raw = message.SerializeToString()
    found = frames.read_response(raw)
    if isinstance(found, PlaneFrame):
        assert found.head.block == 3 and bytes(found.data) == b"x"
        assert frames.provisional_frame(found.head, [found.data[:0], found.data]) == raw
    else:
        assert found == message
