"""What one caller can take from others: its share of places and bytes, and what it learns of them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from cachestore.errors import ConfigError, Overloaded
from cachestore.service import convert
from cachestore.service.auth import tokens
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.client import RemoteStore
from cachestore.service.health.servicer import WATCHES
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.stream import frames
from cachestore.store.base import put_blocks
from cachestore.testing import plans_of, random_prompt, small_spec
from cachestore.wire import store_pb2 as wire

Serve = Callable[..., CacheStoreServer]
Eventually = Callable[..., None]
CHAIN, BLOCKS = random_prompt(small_spec(), 2)
OTHER, _ = random_prompt(small_spec(), 1, seed=7)
WATCH, PIN = "/cachestore.v1.CacheStore/Watch", "/cachestore.v1.CacheStore/Pin"


def test_nobody_holds_more_than_half_of_the_calls(serve: Serve, people: Any) -> None:
    server = serve(**people.settings, max_concurrent=4)
    with (
        RemoteStore(server.address, credentials=people.credentials("alice"), transports=("stream",)) as alice,
        RemoteStore(server.address, credentials=people.credentials("bob"), transports=("stream",)) as bob,
    ):
        with alice.put(CHAIN.fingerprint, plans_of(BLOCKS)), alice.put(OTHER.fingerprint, plans_of(BLOCKS[:1])):
            with pytest.raises(Overloaded, match="all that one caller may") as refused:
                alice.lookup(CHAIN)
            assert refused.value.retryable
            assert bob.lookup(CHAIN).ready == 0
        assert alice.lookup(CHAIN).ready == 0


def test_a_tenant_is_one_caller_whichever_worker_acts_for_it(serve: Serve, people: Any) -> None:
    known, secret = people.settings, tokens.new_token()
    second = IdentitySettings("second", "delegate", "", f"sha256:{tokens.digest_of(secret).hex()}")
    server = serve(**{**known, "identities": (*known["identities"], second)}, max_concurrent=4)

    def acting(credentials: Credentials) -> RemoteStore:
        return RemoteStore(server.address, credentials=credentials, transports=("stream",))

    with (
        acting(people.credentials("worker", "acme")) as one,
        acting(Credentials(token=secret, tenant=people.sign("acme"))) as two,
        acting(Credentials(token=secret, tenant=people.sign("other"))) as other,
    ):
        with one.put(CHAIN.fingerprint, plans_of(BLOCKS)), two.put(OTHER.fingerprint, plans_of(BLOCKS[:1])):
            with pytest.raises(Overloaded, match=r"tenant acme .* all that one caller may"):
                two.lookup(CHAIN)
            assert other.lookup(CHAIN).ready == 0
        assert two.lookup(CHAIN).ready == 0


def begun_planes(count: int, size: int) -> Iterator[bytes]:
    """A Write of a block of so many planes of `size` bytes, of each of which one byte comes; then nothing."""
    planes = [wire.PlaneId(slot=slot, half=2, item_bytes=1, raw_bytes=size) for slot in range(count)]
    block = wire.Reserve.Block(key=bytes(32), token_count=1)
    reserve = wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=[block])
    yield wire.WriteRequest(reserve=reserve).SerializeToString()
    encoding = wire.Encoding(stored_bytes=size)
    segments = [wire.PlaneFrame.Segment(plane=plane, encoding=encoding, length=1) for plane in range(count)]
    yield wire.WriteRequest(frame=wire.PlaneFrame(segments=segments, data=bytes(count))).SerializeToString()


def held_open(requests: Iterator[bytes], over: threading.Event) -> Iterator[bytes]:
    yield from requests
    over.wait(20)


def test_nobody_holds_more_than_half_of_the_bytes_in_flight(serve: Serve, people: Any, eventually: Eventually) -> None:
    server = serve(**people.settings, in_flight_bytes=16 << 20)
    metadata, over = people.credentials("alice").metadata(server.address), threading.Event()
    with (
        grpc.insecure_channel(server.address) as channel,
        RemoteStore(server.address, credentials=people.credentials("bob"), transports=("stream",)) as bob,
    ):
        write = channel.stream_stream(frames.WRITE)
        # the Write itself counts for a message, which is a quarter
        held = write(held_open(begun_planes(3, 1 << 20), over), metadata=metadata, timeout=20)
        eventually(lambda: server.bytes_in_flight.used > 7 << 20)
        with pytest.raises(grpc.RpcError) as refused:
            list(write(begun_planes(1, 8), metadata=metadata, timeout=20))
        put_blocks(bob, CHAIN.fingerprint, BLOCKS)
        with bob.read(CHAIN) as reading:
            assert len(list(reading)) == len(BLOCKS)
        over.set()
        held.cancel()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "bytes in flight that are all that one caller may" in (refused.value.details() or "")


def test_half_of_the_bytes_in_flight_is_enough_to_put(people: Any) -> None:
    assert ServiceSettings(in_flight_bytes=8 << 20).in_flight_bytes == 8 << 20
    with pytest.raises(ConfigError, match=r"service\.in_flight_bytes must be at least 16MiB"):
        ServiceSettings(**people.settings, in_flight_bytes=(16 << 20) - 1)


@pytest.mark.parametrize("planes", [16, 8192])
def test_pieces_of_tiny_planes_count_for_the_memory_that_they_take(serve: Serve, planes: int) -> None:
    server = serve(in_flight_bytes=8 << 20)
    with grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(frames.WRITE)(begun_planes(planes, 2), timeout=20)
        with suppress(grpc.RpcError):
            list(call)
        code = grpc.StatusCode.OK if planes == 16 else grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call.code() is code, call.details()


def test_nobody_holds_more_than_half_of_the_watches(serve: Serve, people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(**people.settings)
    with grpc.insecure_channel(server.address) as channel:

        def watch(name: str) -> Any:
            metadata = people.credentials(name).metadata(server.address)
            call = channel.unary_stream(WATCH)(b"", metadata=metadata, timeout=20)
            next(call)
            return call

        calls = [watch("alice") for _ in range(8)]
        with pytest.raises(grpc.RpcError) as refused:
            watch("alice")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        calls.append(watch("bob"))
        for call in calls:
            call.cancel()


def watching_health(channel: grpc.Channel, metadata: Any) -> Any:
    call = HealthStub(channel).Watch(HealthCheckRequest(), metadata=metadata, timeout=20)
    next(call)
    return call


def test_nobody_holds_more_than_half_of_the_watches_of_health(
    serve: Serve, people: Any, eventually: Eventually
) -> None:
    server = serve(**people.settings)
    reader, bob = (people.credentials(name).metadata(server.address) for name in ("reader", "bob"))
    with grpc.insecure_channel(server.address) as channel:
        mine = [watching_health(channel, reader) for _ in range(WATCHES // 2)]
        with pytest.raises(grpc.RpcError) as refused:
            watching_health(channel, reader)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "all that one caller may" in (refused.value.details() or "")
        mine.append(watching_health(channel, bob))
        mine[0].cancel()

        def watched() -> bool:
            with suppress(grpc.RpcError):
                mine.append(watching_health(channel, reader))
                return True
            return False

        eventually(watched)
        for call in mine:
            call.cancel()


def test_a_watch_of_health_ends_when_what_its_caller_showed_does(
    serve: Serve, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SKEW", 0.1)
    server = serve(**people.settings)
    soon = people.credentials("worker").for_tenant(people.sign("acme", ttl=1.0))
    begun = time.monotonic()
    with grpc.insecure_channel(server.address) as channel:
        watch = watching_health(channel, soon.metadata(server.address))
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
    assert ended.value.code() is grpc.StatusCode.CANCELLED and time.monotonic() - begun < 1.0 + 0.1 + 1


def test_what_a_pin_answers_tells_nothing_of_others(serve: Serve, people: Any) -> None:
    address = serve(**people.settings).address

    def pinned(name: str) -> Any:
        pin = channel.unary_unary(PIN, response_deserializer=wire.PinResponse.FromString)
        request = wire.PinRequest(chain=convert.chain_message(CHAIN), ttl_ms=60_000)
        return pin(request.SerializeToString(), metadata=people.credentials(name).metadata(address), timeout=10)

    with (
        RemoteStore(address, credentials=people.credentials("bob")) as bob,
        grpc.insecure_channel(address) as channel,
    ):
        put_blocks(bob, CHAIN.fingerprint, BLOCKS)
        before = pinned("alice").quota_left_bytes
        assert pinned("bob").blocks == len(BLOCKS)
        assert pinned("bob").quota_left_bytes < before == pinned("alice").quota_left_bytes


def test_how_full_a_tier_is_only_an_admin_sees(serve: Serve, people: Any) -> None:
    address = serve(**people.settings).address
    whole = {"tier_used_bytes", "tier_capacity_bytes"}

    def seen(name: str) -> set[str]:
        with RemoteStore(address, credentials=people.credentials(name)) as store:
            return {figure.name for figure in store.stats()}

    with RemoteStore(address, credentials=people.credentials("alice")) as alice:
        put_blocks(alice, CHAIN.fingerprint, BLOCKS)
    assert whole <= seen("admin")
    for name in ("reader", "alice", "bob"):
        assert not whole & seen(name) and "leases_open" in seen(name)
