"""How long a call may hold its place: no longer than what its caller showed, and not in silence."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from cachestore.errors import CacheStoreError
from cachestore.service import convert
from cachestore.service.auth import tokens
from cachestore.service.auth.guard import STRANGERS
from cachestore.service.auth.methods import HEALTH
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.stream import frames
from cachestore.testing import plans_of, random_prompt, small_spec
from cachestore.wire import store_pb2 as wire

Serve = Callable[..., CacheStoreServer]
Eventually = Callable[..., None]
CHAIN, BLOCKS = random_prompt(small_spec(), 2)
LOOKUP, WATCH = "/cachestore.v1.CacheStore/Lookup", "/cachestore.v1.CacheStore/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STALL = 0.5


@pytest.fixture
def silence() -> Iterator[Callable[[], Iterator[bytes]]]:
    """The requests of a call that brings headers only."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(20)
        yield from ()

    yield nothing
    over.set()


def waiting_read(channel: grpc.Channel, metadata: Any = None) -> Any:
    read = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString)
    request = wire.ReadRequest(chain=convert.chain_message(CHAIN), wait_ms=20_000)
    return read(request, timeout=20, metadata=metadata)


@pytest.mark.parametrize("way", ["stream", pytest.param("bulk", marks=pytest.mark.slow), "shared"])
def test_what_runs_ends_when_what_its_caller_showed_does(
    serve: Serve, people: Any, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, way: str
) -> None:
    monkeypatch.setattr(tokens, "SKEW", 0.1)
    server = serve(**people.settings)
    soon = people.credentials("worker").for_tenant(people.sign("acme", ttl=2.0))
    with (
        RemoteStore(server.address, credentials=soon, transports=(way,)) as tenant,
        grpc.insecure_channel(server.address) as channel,
    ):
        metadata = soon.metadata(server.address)
        watch = channel.unary_stream(WATCH, response_deserializer=wire.WatchResponse.FromString)(
            b"", metadata=metadata, timeout=20
        )
        put = tenant.put(CHAIN.fingerprint, plans_of(BLOCKS), timeout=20)
        read = waiting_read(channel, metadata)
        # a put in shared memory is no call
        eventually(lambda: server.calls.used == (2 if way == "shared" else 3))
        begun = time.monotonic()
        heard = list(iter_until_end(watch))
        assert heard, "it was not heard while the token held"
        eventually(lambda: server.calls.used == 0)
        assert time.monotonic() - begun < 2.0 + 0.1 + 1
        with pytest.raises(CacheStoreError):
            put.commit()
        put.abort()
        read.cancel()
    later = people.credentials("worker").for_tenant(people.sign("acme"))
    with RemoteStore(server.address, credentials=later) as tenant:
        assert tenant.lookup(CHAIN).ready == tenant.lookup(CHAIN).writing == 0


def iter_until_end(watch: Any) -> Iterator[Any]:
    try:
        yield from watch
    except grpc.RpcError as ended:
        assert ended.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("path", [LOOKUP, WATCH, REFLECTION])
def test_headers_alone_hold_nobody_up(serve: Serve, silence: Any, eventually: Eventually, path: str) -> None:
    server = serve(max_concurrent=4, stall=STALL, longest_call=60.0)
    with grpc.insecure_channel(server.address) as channel, RemoteStore(server.address) as other:
        calls = [channel.stream_unary(path).future(silence(), timeout=20) for _ in range(4)]
        begun = time.monotonic()
        while not all(call.done() for call in calls):
            assert other.lookup(CHAIN).ready == 0
            assert time.monotonic() - begun < STALL + 2
        assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}


def test_reflection_answers_and_is_done(serve: Serve, silence: Any) -> None:
    server = serve(stall=STALL, longest_call=60.0)

    def one_then_nothing() -> Iterator[bytes]:
        yield b"\x3a\x00"
        yield from silence()

    with grpc.insecure_channel(server.address) as channel:
        answers = channel.stream_stream(REFLECTION)(one_then_nothing(), timeout=20)
        begun = time.monotonic()
        assert next(answers)
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        assert ended.value.code() is grpc.StatusCode.CANCELLED and time.monotonic() - begun < STALL + 1


def test_readers_that_left_wait_for_nothing(server: CacheStoreServer, eventually: Eventually) -> None:
    with RemoteStore(server.address, transports=("bulk",)) as writer:
        with writer.put(CHAIN.fingerprint, plans_of(BLOCKS), timeout=20):
            with grpc.insecure_channel(server.address) as channel:
                calls = [waiting_read(channel) for _ in range(8)]
                eventually(lambda: server.calls.used == 9)
            # long before what they wait for would be given up
            eventually(lambda: all(call.done() for call in calls) and server.calls.used == 1, 5)


def asked(channel: grpc.Channel, within: float) -> bytes:
    """What the server says of its health. Who is slow on a busy machine gives way too, and asks again."""
    until = time.monotonic() + within
    while True:
        try:
            answer: bytes = channel.unary_unary(HEALTH)(b"", timeout=until - time.monotonic())
            return answer
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise


def test_strangers_give_way_to_each_other(serve: Serve, people: Any, silence: Any) -> None:
    """Whoever says nothing cannot keep others from asking whether the server lives."""
    server = serve(**people.settings)
    over = threading.Event()

    def hold(channel: grpc.Channel) -> None:
        while not over.is_set():
            calls = [channel.stream_unary(HEALTH).future(silence(), timeout=2) for _ in range(STRANGERS)]
            for call in calls:
                call.exception(5)

    with grpc.insecure_channel(server.address) as crowd, grpc.insecure_channel(server.address) as channel:
        threads = [threading.Thread(target=hold, args=(crowd,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                assert asked(channel, within=5.0)
                time.sleep(0.02)
        finally:
            over.set()
            for thread in threads:
                thread.join()
