"""Connections that break, and bytes that break on them: nothing wrong is handed out, nothing stays open."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.frames import BlockFrame
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.store.base import Loaded, put_blocks
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec
from cachestore.wire import store_pb2 as wire

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""


class Proxy:
    """Passes bytes between clients and a server until its connections are cut; new ones are taken again."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._pass, args=(source, sink)))
                    self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)

    def cut(self) -> None:
        while self._sockets:
            one = self._sockets.pop()
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def proxy(server: CacheStoreServer) -> Iterator[Proxy]:
    proxy = Proxy(server.address)
    yield proxy
    proxy.close()


def test_a_read_goes_on_after_its_connection_is_cut(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address) as direct, RemoteStore(proxy.address) as store:
        put_blocks(direct, keys.fingerprint, blocks)
        loaded: list[Loaded] = []
        with store.read(keys) as reading:
            for one in reading:
                loaded.append(one)
                if len(loaded) == 1:
                    proxy.cut()
        assert len(loaded) == 12 and all(map(same, (block for block, _ in loaded), blocks))
        figures = direct.stats()
        assert total(figures, "read_blocks") == total(figures, "read_hits") == 12
        assert total(figures, "read_open") == total(figures, "leases_open") == 0


def test_a_connection_cut_again_and_again_ends_the_read(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address) as direct, RemoteStore(proxy.address) as store:
        put_blocks(direct, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            loaded = []
            for one in reading:
                loaded.append(one)
                proxy.cut()
        assert 1 <= len(loaded) < 12 and all(map(same, (block for block, _ in loaded), blocks))


def test_a_cut_put_leaves_nothing(server: CacheStoreServer, proxy: Proxy) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address) as direct, RemoteStore(proxy.address) as store:
        with pytest.raises(Unavailable), store.put(keys.fingerprint, plans_of(blocks)) as put:
            for index, block in enumerate(blocks):
                put.write(index, 0, block.data[0])
                proxy.cut()
            put.commit()
        until = time.monotonic() + 10
        while direct.lookup(keys).writing:
            assert time.monotonic() < until
        assert direct.lookup(keys) == (0, (), 0)
        assert total(direct.stats(), "puts_open") == 0


@pytest.mark.parametrize("wrong", ["header", "payload", "other block", "offset", "gone", "silent"])
def test_what_the_wire_breaks_is_a_miss(
    server: CacheStoreServer, remote: RemoteStore, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    keys, blocks = random_prompt(LARGE, 3)
    put_blocks(remote, keys.fingerprint, blocks)
    sent = remote._connection.read

    def broken(request: wire.ReadRequest, timeout: float) -> "Tampered":
        return Tampered(sent(request, timeout), wrong)

    with monkeypatch.context() as patch:
        patch.setattr(remote._connection, "read", broken)
        with remote.read(keys) as reading:
            loaded = list(reading)
    assert len(loaded) == 1 and same(loaded[0].block, blocks[0])
    figures = remote.stats()
    check_sums(figures)
    assert total(figures, "read_hits") == 1 and total(figures, "read_open") == 0
    corrupt = 0 if wrong in ("gone", "silent") else 1
    assert total(figures, "read_corrupt") == corrupt == total(figures, "corruptions", tier="transit")
    with remote.read(keys) as reading:
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
