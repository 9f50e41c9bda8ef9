"""Connections that break, and bytes that break on them: nothing wrong is handed out, nothing stays open."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.service.stream.frames import BlockFrame
from cachestore.store.base import Loaded, put_blocks
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec
from cachestore.wire import store_pb2 as wire
from tests.faults.proxy import Proxy

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""

STREAM = ("stream",)
"""The way on which connections break."""


@pytest.fixture
def proxy(server: CacheStoreServer) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


@pytest.fixture
def stream(server: CacheStoreServer) -> Iterator[RemoteStore]:
    with RemoteStore(server.address, transports=STREAM) as store:
        yield store


def test_a_read_goes_on_after_its_connection_is_cut(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address) as direct, RemoteStore(proxy.address, transports=STREAM) as store:
        put_blocks(direct, keys.fingerprint, blocks)
        loaded: list[Loaded] = []
        with store.read(keys) as reading:
            for one in reading:
                loaded.append(one)
                if len(loaded) == 1:
                    proxy.reset()
        assert len(loaded) == 12 and all(map(same, (block for block, _ in loaded), blocks))
        figures = direct.stats()
        assert total(figures, "read_blocks") == total(figures, "read_hits") == 12
        assert total(figures, "read_open") == total(figures, "leases_open") == 0


def test_a_connection_cut_again_and_again_ends_the_read(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address) as direct, RemoteStore(proxy.address, transports=STREAM) as store:
        put_blocks(direct, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            loaded = []
            for one in reading:
                loaded.append(one)
                proxy.reset()
        assert 1 <= len(loaded) < 12 and all(map(same, (block for block, _ in loaded), blocks))


def test_a_cut_put_leaves_nothing(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address) as direct, RemoteStore(proxy.address, transports=STREAM) as store:
        with pytest.raises(Unavailable), store.put(keys.fingerprint, plans_of(blocks)) as put:
            for index, block in enumerate(blocks):
                put.write(index, 0, block.data[0])
                proxy.reset()
            put.commit()
        until = time.monotonic() + 10
        while direct.lookup(keys).writing:
            assert time.monotonic() < until
        assert direct.lookup(keys) == (0, (), 0)
        assert total(direct.stats(), "puts_open") == 0


@pytest.mark.parametrize("wrong", ["header", "payload", "other block", "offset", "gone", "silent"])
def test_what_the_wire_breaks_is_a_miss(
    server: CacheStoreServer, stream: RemoteStore, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    keys, blocks = random_prompt(LARGE, 3)
    put_blocks(stream, keys.fingerprint, blocks)
    sent = stream._connection.read

    def broken(request: wire.ReadRequest, timeout: float) -> "Tampered":
        return Tampered(sent(request, timeout), wrong)

    with monkeypatch.context() as patch:
        patch.setattr(stream._connection, "read", broken)
        with stream.read(keys) as reading:
            loaded = list(reading)
    assert len(loaded) == 1 and same(loaded[0].block, blocks[0])
    figures = stream.stats()
    check_sums(figures)
    assert total(figures, "read_hits") == 1 and total(figures, "read_open") == 0
    corrupt = 0 if wrong in ("gone", "silent") else 1
    assert total(figures, "read_corrupt") == corrupt == total(figures, "corruptions", tier="transit")
    with stream.read(keys) as reading:
        assert len(list(reading)) == 3


class Tampered:
    """A stream of answers in which block 1 is not what it should be."""

    def __init__(self, call: Any, wrong: str) -> None:
        self._call, self._wrong = call, wrong

    def cancel(self) -> None:
        self._call.cancel()

    def __next__(self) -> wire.ReadResponse | BlockFrame:
        message: wire.ReadResponse | BlockFrame = next(self._call)
        if isinstance(message, BlockFrame):
            if message.head.block == 1 and self._wrong == "payload":
                return BlockFrame(message.head, np.ascontiguousarray(message.data[::-1]))
            if message.head.block == 1 and self._wrong == "offset":
                message.head.offset += 64
            return message
        if message.HasField("start") and message.start.block == 1:
            if self._wrong == "header":
                message.start.header = message.start.header[:-1] + b"?"
            elif self._wrong == "other block":
                message.start.block = 2
            elif self._wrong == "silent":
                raise StopIteration
        if message.HasField("end") and message.end.block == 1 and self._wrong == "gone":
            message.end.status = wire.GONE
        return message


def test_a_client_that_vanishes_leaves_nothing(server: CacheStoreServer, caplog: pytest.LogCaptureFixture) -> None:
    keys, _ = random_prompt(LARGE, 2)
    channel = grpc.insecure_channel(server.address)
    reserve = wire.Reserve(
        fingerprint=keys.fingerprint,
        layouts=[wire.Layout(planes=[wire.PlaneId(item_bytes=4, raw_bytes=1 << 20)])],
        blocks=[wire.Reserve.Block(key=keys.keys[0], token_count=1)],
    )
    gone = threading.Event()

    def requests() -> Iterator[bytes]:
        yield wire.WriteRequest(reserve=reserve).SerializeToString()
        gone.wait(20)

    call = channel.stream_stream(f"/{SERVICE}/Write")(requests(), timeout=30)
    next(call)
    with RemoteStore(server.address) as store:
        assert store.lookup(keys).writing == 1
        channel.close()
        gone.set()
        until = time.monotonic() + 10
        while store.lookup(keys).writing:
            assert time.monotonic() < until
        assert total(store.stats(), "put_aborted") == 1
    assert not caplog.records, "a client that leaves is no error of ours"


def test_no_thread_outlives_its_store(serve: Callable[..., CacheStoreServer]) -> None:
    before = set(threading.enumerate())
    server = serve()
    keys, blocks = random_prompt(small_spec(), 2)
    for _ in range(5):
        with RemoteStore(server.address) as store:
            put_blocks(store, keys.fingerprint, blocks)
            with store.read(keys) as reading:
                assert len(list(reading)) == 2
    server.close()
    until = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < until, set(threading.enumerate()) - before
        time.sleep(0.01)


@pytest.mark.slow
def test_an_idle_stream_lives(remote: RemoteStore) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    with remote.put(keys.fingerprint, plans_of(blocks), timeout=60) as put:
        # three keepalive pings without data; a server that minds answers GOAWAY
        time.sleep(17)
        for plane, data in enumerate(blocks[0].data):
            put.write(0, plane, data)
        put.commit()
    assert remote.lookup(keys).ready == 1


class _SaysNothing(grpc.GenericRpcHandler):
    """Ends every call well, without a message."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(()))


def test_a_call_that_ends_well_without_an_answer_is_an_outage() -> None:
    server = grpc.server(ThreadPoolExecutor(2), handlers=(_SaysNothing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with RemoteStore(f"127.0.0.1:{port}", transports=STREAM) as store:
            with pytest.raises(Unavailable, match="without an answer"):
                store.lookup(random_prompt(small_spec(), 1)[0])
            with pytest.raises(Unavailable, match="without an answer"):
                store.stats()
    finally:
        server.stop(0).wait()
