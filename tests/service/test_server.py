"""What every method has in common: errors from the table; health and reflection beside them."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cachestore.errors import InvalidArgument, LeaseExpired, TooLarge
from cachestore.hashing import Chain, chain
from cachestore.metrics import Figure, total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.service.servicer import Servicer
from cachestore.store.base import Lease, PutStatus, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_blocks, random_prompt, random_tokens, small_spec
from cachestore.wire import store_pb2 as wire

METHODS = wire.DESCRIPTOR.services_by_name["CacheStore"].methods


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
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and reason(error) == "invalid_argument"
    assert remote.stats()


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
    keys, blocks = random_prompt(small_spec(), 2)
    with remote.put(keys.fingerprint, plans_of(blocks)) as put:
        (open_put,) = tiered.namespace("default").puts
        assert remote.abort(open_put) == 2
        assert remote.lookup(keys).writing == 0
        with pytest.raises(Exception, match="abort"):
            put.commit()


def test_a_message_over_the_limit_is_refused(channel: grpc.Channel, remote: RemoteStore) -> None:
    error = called(channel, "Lookup", wire.LookupRequest(chain=wire.Chain(keys=bytes(5 << 20))).SerializeToString())
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(TooLarge):
        remote.register(member_of(bytes(5 << 20)), 1.0)
    assert remote.stats()


def member_of(incarnation: bytes) -> Member:
    return Member("store", "n", "h:1", "n", incarnation)


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
    keys, blocks = random_prompt(small_spec(), 1)
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
    keys, _ = random_prompt(small_spec(), 1)
    with pytest.raises(InvalidArgument, match="tier"):
        remote.clear("x" * 300)
    with pytest.raises(InvalidArgument, match="lease"):
        remote.release(Lease(b"", 1, 1.0))
    with pytest.raises(InvalidArgument, match="lease lasts"):
        remote.lease(keys, ttl=1e6)


def test_the_service_counts_what_concerns_everybody(remote: RemoteStore, server: CacheStoreServer) -> None:
    assert total(remote.stats(), "insecure") == 0 and Figure("insecure", (), 0) in remote.stats()
    server.stalls.counters.add("calls_stalled")
    assert total(remote.stats(), "calls_stalled") == 1
