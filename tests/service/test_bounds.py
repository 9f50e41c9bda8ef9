"""Many callers, slow ones, and more than the service takes at once."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cachestore.block import BlockSpec, Slot
from cachestore.errors import Overloaded
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.testing import plans_of, random_prompt, same, small_spec
from cachestore.wire import store_pb2 as wire

Eventually = Callable[[Callable[[], object]], None]

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=1024)
"""Two planes of 4 MiB: each is larger than any message."""


@pytest.mark.parametrize("codec", ["raw", pytest.param("lz4", marks=pytest.mark.slow)])
def test_planes_larger_than_a_message(server: CacheStoreServer, codec: str) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    with RemoteStore(server.address, codec=codec) as remote:
        put_blocks(remote, keys.fingerprint, blocks)
        with remote.read(keys) as reading:
            assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)] == [True, True]


def test_many_clients_at_once(server: CacheStoreServer) -> None:
    def work(number: int) -> bool:
        keys, blocks = random_prompt(small_spec(), 6, seed=number)
        with RemoteStore(server.address) as remote:
            for _ in range(5):
                put_blocks(remote, keys.fingerprint, blocks)
                with remote.read(keys) as reading:
                    if not all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)):
                        return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_too_many_calls_are_refused_at_once(serve: Callable[..., CacheStoreServer], eventually: Eventually) -> None:
    server = serve(max_concurrent=2)
    keys, blocks = random_prompt(small_spec(), 1)
    with RemoteStore(server.address, transports=("stream",)) as remote:
        with remote.put(keys.fingerprint, plans_of(blocks)), remote.put(keys.fingerprint, plans_of(blocks)):
            begun = time.monotonic()
            with pytest.raises(Overloaded, match="concurrent calls") as refused:
                remote.lookup(keys)
            assert time.monotonic() - begun < 2 and refused.value.retryable
            with grpc.insecure_channel(server.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
        eventually(lambda: server.calls.used == 0)
        assert remote.lookup(keys).ready == 0


def test_too_many_bytes_are_refused(serve: Callable[..., CacheStoreServer], eventually: Eventually) -> None:
    server = serve(in_flight_bytes=8 << 20)
    keys, blocks = random_prompt(LARGE, 1)
    with RemoteStore(server.address, transports=("stream",)) as remote:
        with (
            remote.put(keys.fingerprint, plans_of(blocks)) as put,
            pytest.raises(Overloaded, match="bytes in flight"),
            remote.put(keys.fingerprint, plans_of(blocks)) as other,
        ):
            put.write(0, 0, blocks[0].data[0])
            other.write(0, 0, np.zeros(4 << 20, dtype=np.uint8))
            put.commit()
    eventually(lambda: server.bytes_in_flight.used == 0)


def test_a_stream_without_a_deadline_ends_at_the_servers(serve: Callable[..., CacheStoreServer]) -> None:
    server = serve(longest_call=0.3)
    held = threading.Event()

    def silent() -> Iterator[bytes]:
        held.wait(20)
        yield from ()

    with grpc.insecure_channel(server.address) as channel:
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as ended:
            list(channel.stream_stream(f"/{SERVICE}/Write")(silent()))
        held.set()
    assert time.monotonic() - begun < 5
    assert ended.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_reader_that_takes_nothing_is_let_go(serve: Callable[..., CacheStoreServer]) -> None:
    server = serve(longest_call=0.3)
    keys, blocks = random_prompt(LARGE, 4)
    with RemoteStore(server.address) as remote, grpc.insecure_channel(server.address) as channel:
        for number, block in enumerate(blocks):
            put_blocks(remote, keys.fingerprint, [block])
            assert remote.lookup(keys).ready == number + 1
        request = wire.ReadRequest(chain=wire.Chain(fingerprint=keys.fingerprint, keys=b"".join(keys.keys)))
        idle = channel.unary_stream(f"/{SERVICE}/Read")(request.SerializeToString())
        next(idle)
        assert server.calls.used == 1
        until = time.monotonic() + 5
        while server.calls.used:
            assert time.monotonic() < until
            time.sleep(0.01)
        idle.cancel()


def test_a_slow_reader_does_not_hurt_others(remote: RemoteStore, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 4)
    put_blocks(remote, keys.fingerprint, blocks)
    with RemoteStore(server.address) as slow, slow.read(keys) as reading:
        next(iter(reading))
        begun = time.monotonic()
        for _ in range(20):
            assert remote.lookup(keys).ready == 4
        assert time.monotonic() - begun < 5
        with remote.read(keys) as other:
            assert len(list(other)) == 4


def test_a_reader_that_leaves_frees_everything(
    remote: RemoteStore, server: CacheStoreServer, eventually: Eventually
) -> None:
    keys, blocks = random_prompt(LARGE, 4)
    put_blocks(remote, keys.fingerprint, blocks)
    with remote.read(keys) as reading:
        next(iter(reading))
    eventually(lambda: server.calls.used == server.bytes_in_flight.used == 0)
    figures = remote.stats()
    assert total(figures, "leases_open") == total(figures, "read_open") == 0
