"""What every method has in common: errors from the table, bounds, deadlines; health and reflection beside them."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cachestore.block import BlockSpec, Slot
from cachestore.errors import InvalidArgument, LeaseExpired, Overloaded, TooLarge
from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.service.servicer import Servicer
from cachestore.store.base import Lease, PutStatus, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_blocks, random_tokens, same, small_spec
from cachestore.wire import store_pb2 as wire

METHODS = wire.DESCRIPTOR.services_by_name["CacheStore"].methods
NOT_YET = {"Pin", "Unpin", "ListPins", "Watch", "Attach"}
LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=1024)
"""Two planes of 4 MiB: each is larger than any message."""


@pytest.fixture
def channel(server: CacheStoreServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def called(channel: grpc.Channel, method: str, *requests: bytes) -> grpc.RpcError:
    """How a call with these raw requests fails."""
    path = f"/{SERVICE}/{method}"
    with pytest.raises(grpc.RpcError) as failed:
        if method == "Write":
            list(channel.stream_stream(path)(iter(requests), timeout=10))
        elif method in ("Read", "Watch"):
            list(channel.unary_stream(path)(requests[0], timeout=10))
        else:
            channel.unary_unary(path)(requests[0], timeout=10)
    return failed.value


def reason(error: Any) -> str:
    return dict(error.trailing_metadata()).get("kv-reason", "")


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_no_bug_in_any_method_leaks(
    server: CacheStoreServer, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def broken(self: object, request: object, context: object) -> Any:
        raise RuntimeError("/secret/place")

    def broken_stream(self: object, request: object, context: object) -> Iterator[Any]:
        yield from ()
        raise RuntimeError("/secret/place")

    server.close()
    monkeypatch.setattr(Servicer, method, broken_stream if method in ("Read", "Write", "Watch") else broken)
    server.open()
    with grpc.insecure_channel(server.address) as fresh:
        error = called(fresh, method, b"")
    assert error.code() is grpc.StatusCode.INTERNAL and "secret" not in str(error)
    assert reason(error) == "internal" and dict(error.trailing_metadata())["retryable"] == "0"


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, remote: RemoteStore, method: str) -> None:
    error = called(channel, method, b"\xff" * 100)
    if method in NOT_YET:
        assert error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT)
    else:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and reason(error) == "invalid_argument"
    assert remote.stats()


@pytest.mark.parametrize("method", sorted(NOT_YET))
def test_what_is_not_built_yet_says_so(channel: grpc.Channel, method: str) -> None:
    assert called(channel, method, b"").code() is grpc.StatusCode.UNIMPLEMENTED


def encoding(**changes: int) -> wire.Encoding:
    return wire.Encoding(**{"stored_bytes": 256, **changes})


def piece(data: bytes = bytes(256), block: int = 0, **changes: Any) -> wire.WriteRequest:
    segment: dict[str, Any] = {"plane": 0, "encoding": encoding(), "offset": 0, "length": len(data), **changes}
    frame = wire.PlaneFrame(block=block, segments=[wire.PlaneFrame.Segment(**segment)], data=data)
    return wire.WriteRequest(frame=frame)


WRONG_WRITES: dict[str, list[wire.WriteRequest | bytes]] = {
    "garbage": [b"\xff\xff\xff"],
    "reserve again": [wire.WriteRequest(reserve=wire.Reserve())],
    "nothing": [wire.WriteRequest()],
    "unknown block": [piece(block=9)],
    "unknown plane": [piece(plane=99)],
    "too short": [piece(length=257)],
    "too long": [piece(length=255)],
    "huge length": [piece(length=1 << 63)],
    "huge offset": [piece(offset=(1 << 64) - 1)],
    "huge plane": [piece(encoding=encoding(stored_bytes=1 << 60))],
    "empty plane": [piece(encoding=encoding(stored_bytes=0))],
    "empty piece": [piece(b"")],
    "out of order": [piece(bytes(100), offset=100)],
    "repeated": [piece(bytes(100)), piece(bytes(100))],
    "other encoding": [piece(bytes(100)), piece(bytes(156), offset=100, encoding=encoding(codec=1))],
    "written twice": [piece(), piece()],
    "commit of unknown": [wire.WriteRequest(commit=wire.Commit(blocks=[7]))],
    "commit twice": [wire.WriteRequest(commit=wire.Commit(blocks=[0, 0]))],
}


@pytest.mark.parametrize("name", list(WRONG_WRITES))
def test_a_wrong_write_is_refused_and_leaves_nothing(
    tiered: TieredStore, server: CacheStoreServer, channel: grpc.Channel, remote: RemoteStore, name: str
) -> None:
    planes = [wire.PlaneId(item_bytes=4, raw_bytes=256)]
    block = wire.Reserve.Block(key=b"k" * 32, token_count=4)
    reserve = wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=[block])
    requests = [wire.WriteRequest(reserve=reserve), *WRONG_WRITES[name]]
    error = called(channel, "Write", *(r if isinstance(r, bytes) else r.SerializeToString() for r in requests))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    assert reason(error) == "invalid_argument"
    assert remote.lookup(Chain(bytes(32), (b"k" * 32,))) == (0, (), 0)
    assert server.bytes_in_flight.used == 0 and tiered.memory.usage().used == 0


def test_a_plane_with_a_wrong_checksum_fails_its_block(channel: grpc.Channel, remote: RemoteStore) -> None:
    planes = [wire.PlaneId(item_bytes=4, raw_bytes=256)]
    block = wire.Reserve.Block(key=b"k" * 32, token_count=4)
    reserve = wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=[block])
    requests = [wire.WriteRequest(reserve=reserve), piece(), wire.WriteRequest(commit=wire.Commit(blocks=[0]))]
    write = channel.stream_stream(f"/{SERVICE}/Write", response_deserializer=wire.WriteResponse.FromString)
    answers = list(write(iter([request.SerializeToString() for request in requests]), timeout=10))
    assert answers[-1].answers[0].status == wire.FAILED
    assert remote.lookup(Chain(bytes(32), (b"k" * 32,))) == (0, (), 0)


def test_an_unknown_lease_is_expired(remote: RemoteStore) -> None:
    with pytest.raises(LeaseExpired):
        remote.release(Lease(b"?" * 16, 1, 1.0))
    with pytest.raises(LeaseExpired):
        remote.renew(b"?" * 16, 1.0)
    assert remote.abort(b"?" * 16) == 0


def test_a_lease_can_be_renewed(remote: RemoteStore) -> None:
    blocks = random_blocks(small_spec(), random_tokens(4, 1), 1)
    put_blocks(remote, fingerprint := chain(small_spec(), random_tokens(4, 1)).fingerprint, blocks)
    lease = remote.lease(Chain(fingerprint, (blocks[0].key,)), ttl=1.0)
    longer = remote.renew(lease.id, 60.0)
    assert longer.id == lease.id and longer.blocks == 1 and longer.ttl > 50
    remote.release(longer)


def test_an_open_put_can_be_aborted_from_outside(remote: RemoteStore, tiered: TieredStore) -> None:
    keys, blocks = prompt(small_spec(), 2)
    with remote.put(keys.fingerprint, plans_of(blocks)) as put:
        (open_put,) = tiered.namespace("default")._puts
        assert remote.abort(open_put) == 2
        assert remote.lookup(keys).writing == 0
        with pytest.raises(Exception, match="abort"):
            put.commit()


def prompt(spec: BlockSpec, blocks: int, seed: int = 1) -> tuple[Chain, list[Any]]:
    tokens = random_tokens(blocks * spec.block_tokens, seed)
    return chain(spec, tokens), random_blocks(spec, tokens, seed)


@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_planes_larger_than_a_message(server: CacheStoreServer, codec: str) -> None:
    keys, blocks = prompt(LARGE, 2)
    with RemoteStore(server.address, codec=codec) as remote:
        put_blocks(remote, keys.fingerprint, blocks)
        with remote.read(keys) as reading:
            assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)] == [True, True]


def test_a_message_over_the_limit_is_refused(channel: grpc.Channel, remote: RemoteStore) -> None:
    error = called(channel, "Lookup", wire.LookupRequest(chain=wire.Chain(keys=bytes(5 << 20))).SerializeToString())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(TooLarge):
        remote.register(member_of(bytes(5 << 20)), 1.0)
    assert remote.stats()


def member_of(incarnation: bytes) -> Member:
    return Member("store", "n", "h:1", "n", incarnation)


def test_many_clients_at_once(server: CacheStoreServer) -> None:
    def work(number: int) -> bool:
        keys, blocks = prompt(small_spec(), 6, seed=number)
        with RemoteStore(server.address) as remote:
            for _ in range(5):
                put_blocks(remote, keys.fingerprint, blocks)
                with remote.read(keys) as reading:
                    if not all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)):
                        return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_too_many_calls_are_refused_at_once(serve: Callable[..., CacheStoreServer]) -> None:
    server = serve(max_concurrent=2)
    keys, blocks = prompt(small_spec(), 1)
    with RemoteStore(server.address) as remote:
        with remote.put(keys.fingerprint, plans_of(blocks)), remote.put(keys.fingerprint, plans_of(blocks)):
            begun = time.monotonic()
            with pytest.raises(Overloaded, match="concurrent calls") as refused:
                remote.lookup(keys)
            assert time.monotonic() - begun < 2 and refused.value.retryable
            with grpc.insecure_channel(server.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1
        assert remote.lookup(keys).ready == 0


def test_too_many_bytes_are_refused(serve: Callable[..., CacheStoreServer]) -> None:
    server = serve(in_flight_bytes=8 << 20)
    keys, blocks = prompt(LARGE, 1)
    with RemoteStore(server.address) as remote:
        with (
            remote.put(keys.fingerprint, plans_of(blocks)) as put,
            pytest.raises(Overloaded, match="bytes in flight"),
            remote.put(keys.fingerprint, plans_of(blocks)) as other,
        ):
            put.write(0, 0, blocks[0].data[0])
            other.write(0, 0, np.zeros(4 << 20, dtype=np.uint8))
            put.commit()
    assert server.bytes_in_flight.used == 0


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
    keys, blocks = prompt(LARGE, 4)
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
    keys, blocks = prompt(LARGE, 4)
    put_blocks(remote, keys.fingerprint, blocks)
    with RemoteStore(server.address) as slow, slow.read(keys) as reading:
        next(iter(reading))
        begun = time.monotonic()
        for _ in range(20):
            assert remote.lookup(keys).ready == 4
        assert time.monotonic() - begun < 5
        with remote.read(keys) as other:
            assert len(list(other)) == 4


def test_a_reader_that_leaves_frees_everything(remote: RemoteStore, server: CacheStoreServer) -> None:
    keys, blocks = prompt(LARGE, 4)
    put_blocks(remote, keys.fingerprint, blocks)
    with remote.read(keys) as reading:
        next(iter(reading))
    until = time.monotonic() + 5
    while server.calls.used and time.monotonic() < until:
        time.sleep(0.01)
    assert server.calls.used == server.bytes_in_flight.used == 0
    figures = remote.stats()
    assert total(figures, "leases_open") == total(figures, "read_open") == 0


def test_health_and_reflection(server: CacheStoreServer, channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    described = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in described.get_services()
    file = described.FindFileContainingSymbol(SERVICE)
    assert [method.name for method in file.service[0].method] == [method.name for method in METHODS]


def test_draining_says_not_serving(server: CacheStoreServer, remote: RemoteStore, channel: grpc.Channel) -> None:
    keys, blocks = prompt(small_spec(), 1)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    with remote.put(keys.fingerprint, plans_of(blocks)) as put:
        closing = threading.Thread(target=server.close, args=(10.0,))
        closing.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        for plane, data in enumerate(blocks[0].data):
            put.write(0, plane, data)
        put.commit()
        assert put.answers[0].status is PutStatus.STORED
    closing.join(20)
    assert not closing.is_alive()


def test_wrong_arguments_name_the_field(remote: RemoteStore) -> None:
    keys, _ = prompt(small_spec(), 1)
    with pytest.raises(InvalidArgument, match="tier"):
        remote.clear("x" * 300)
    with pytest.raises(InvalidArgument, match="lease"):
        remote.release(Lease(b"", 1, 1.0))
    with pytest.raises(InvalidArgument, match="lease lasts"):
        remote.lease(keys, ttl=1e6)
