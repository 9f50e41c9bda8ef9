"""The stream of a Watch: its framing, its bounds, and that nothing is lost where it ends or breaks."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from cachestore.hashing import Chain
from cachestore.service.events import watching
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, small_spec
from cachestore.wire import store_pb2 as wire
from cachestore.wire.store_pb2_grpc import CacheStoreStub

CHAIN, BLOCKS = random_prompt(small_spec(), 8)
SOON = 5.0
Response = wire.WatchResponse


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return CacheStoreStub(channel)  # type: ignore[no-untyped-call]


@pytest.fixture
def put(tiered: TieredStore) -> Callable[[int, int], None]:
    return lambda first, last: void(put_blocks(tiered.namespace("default"), CHAIN.fingerprint, BLOCKS[first:last]))


@pytest.fixture
def serve(serve: Callable[..., CacheStoreServer]) -> Iterator[Callable[..., CacheStoreServer]]:
    """Serves, and at the end waits until the servers have noticed that their watchers left."""
    servers: list[CacheStoreServer] = []

    def start(**settings: Any) -> CacheStoreServer:
        servers.append(serve(**settings))
        return servers[-1]

    yield start
    until = time.monotonic() + SOON
    while any(server.calls.used for server in servers) and time.monotonic() < until:
        time.sleep(0.005)


def void(_: object) -> None:
    return None


def keys_of(messages: Sequence[wire.WatchResponse]) -> list[bytes]:
    packed = b"".join(message.chain.keys for message in messages)
    return [packed[at : at + 32] for at in range(0, len(packed), 32)]


def snapshot(call: Iterator[wire.WatchResponse]) -> list[wire.WatchResponse]:
    """The messages of a snapshot, whose framing is looked at."""
    messages = []
    for message in call:
        assert message.event == Response.SNAPSHOT
        messages.append(message)
        if message.complete:
            break
    assert [bool(message.tiers) for message in messages] == [True] + [False] * (len(messages) - 1)
    assert [message.complete for message in messages] == [False] * (len(messages) - 1) + [True]
    assert len({(message.epoch, message.sequence) for message in messages}) == 1
    return messages


def events(call: Iterator[wire.WatchResponse], count: int) -> list[wire.WatchResponse]:
    """Messages that say something, until they have so many keys."""
    found: list[wire.WatchResponse] = []
    while len(keys_of(found)) < count:
        message = next(call)
        if message.event != Response.ALIVE:
            found.append(message)
    return found


def test_a_watch_begins_with_a_snapshot_and_goes_on_with_events(stub: Any, put: Any, tiered: TieredStore) -> None:
    put(0, 3)
    call = stub.Watch(wire.WatchRequest(), timeout=SOON)
    messages = snapshot(call)
    assert list(messages[0].tiers) == ["cpu"] and messages[0].node == "local"
    assert sorted(keys_of(messages)) == sorted(CHAIN.keys[:3])
    assert {(m.tier, m.chain.fingerprint) for m in messages if m.chain.keys} == {("cpu", CHAIN.fingerprint)}
    put(3, 5)
    tiered.namespace("default").delete(Chain(CHAIN.fingerprint, CHAIN.keys[:1]))
    heard = events(call, 3)
    assert [(message.event, keys_of([message])) for message in heard] == [
        (Response.STORED_BLOCKS, list(CHAIN.keys[3:5])),
        (Response.REMOVED_BLOCKS, [CHAIN.keys[0]]),
    ]
    assert heard[-1].sequence == messages[0].sequence + 2 and heard[-1].epoch == messages[0].epoch
    call.cancel()


def test_a_large_snapshot_comes_in_many_messages(
    stub: Any, put: Any, monkeypatch: pytest.MonkeyPatch, tiered: TieredStore
) -> None:
    monkeypatch.setattr(watching, "MESSAGE_KEYS", 3)
    put(0, 8)
    call = stub.Watch(wire.WatchRequest(), timeout=SOON)
    messages = snapshot(call)
    assert [len(keys_of([message])) for message in messages] == [0, 3, 3, 2, 0]
    tiered.namespace("default").delete(CHAIN)
    heard = events(call, 8)
    assert all(len(keys_of([message])) <= 3 for message in heard)
    assert [message.sequence for message in heard] == sorted({message.sequence for message in heard})
    assert heard[-1].sequence == messages[0].sequence + 8
    call.cancel()


def test_a_quiet_stream_says_that_it_is_alive(stub: Any) -> None:
    call = stub.Watch(wire.WatchRequest(), timeout=SOON)
    first = snapshot(call)[0]
    began = time.monotonic()
    alive = next(call)
    assert time.monotonic() - began < watching.HEARTBEAT + 1
    assert (alive.event, alive.epoch, alive.sequence) == (Response.ALIVE, first.epoch, first.sequence)
    call.cancel()


def test_whoever_comes_back_hears_at_once_that_it_is_heard(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    call = stub.Watch(wire.WatchRequest(), timeout=SOON)
    first = snapshot(call)[0]
    call.cancel()
    monkeypatch.setattr(watching, "HEARTBEAT", 60.0)
    again = stub.Watch(wire.WatchRequest(epoch=first.epoch, sequence=first.sequence), timeout=SOON)
    assert next(again).event == Response.ALIVE
    again.cancel()


def test_whoever_goes_on_behind_an_event_hears_exactly_the_rest(stub: Any, put: Any) -> None:
    call = stub.Watch(wire.WatchRequest(), timeout=SOON)
    first = snapshot(call)[0]
    put(0, 4)
    heard = events(call, 4)
    call.cancel()
    put(4, 6)
    for number, rest in ((first.sequence, CHAIN.keys[:6]), (heard[-1].sequence, CHAIN.keys[4:6])):
        again = stub.Watch(wire.WatchRequest(epoch=first.epoch, sequence=number), timeout=SOON)
        assert keys_of(events(again, len(rest))) == list(rest)
        again.cancel()


@pytest.mark.parametrize("epoch, sequence", [(1, 0), (0, 7), (None, 1 << 63), (None, 9)])
def test_a_place_that_is_unknown_begins_with_a_snapshot(stub: Any, put: Any, epoch: int | None, sequence: int) -> None:
    call = stub.Watch(wire.WatchRequest(), timeout=SOON)
    known = snapshot(call)[0]
    call.cancel()
    put(0, 2)
    request = wire.WatchRequest(epoch=known.epoch if epoch is None else epoch, sequence=sequence)
    call = stub.Watch(request, timeout=SOON)
    assert sorted(keys_of(snapshot(call))) == sorted(CHAIN.keys[:2])
    call.cancel()


def test_whoever_fell_behind_gets_a_snapshot(stub: Any, put: Any, tiered: TieredStore) -> None:
    tiered.events.log_keys = 4
    call = stub.Watch(wire.WatchRequest(), timeout=SOON)
    first = snapshot(call)[0]
    call.cancel()
    put(0, 5)
    call = stub.Watch(wire.WatchRequest(epoch=first.epoch, sequence=first.sequence), timeout=SOON)
    assert sorted(keys_of(snapshot(call))) == sorted(CHAIN.keys[:5])
    call.cancel()


def test_a_reader_that_does_not_read_holds_up_no_writer(stub: Any, put: Any, tiered: TieredStore) -> None:
    tiered.events.log_keys = 64
    call = stub.Watch(wire.WatchRequest(), timeout=60.0)
    snapshot(call)
    store = tiered.namespace("default")
    for _ in range(100):
        put(0, 8)
        store.delete(CHAIN)
    put(0, 2)
    known: set[bytes] = set()
    until = time.monotonic() + SOON
    while known != set(CHAIN.keys[:2]) and time.monotonic() < until:
        message = next(call)
        if message.tiers:
            known = set()
        known = (
            known - set(keys_of([message]))
            if message.event == Response.REMOVED_BLOCKS
            else known | set(keys_of([message]))
        )
    assert known == set(CHAIN.keys[:2])
    call.cancel()


def test_the_longest_call_ends_a_watch_without_an_error_and_without_a_loss(
    serve: Callable[..., CacheStoreServer], put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a busy machine ends the call before the watch has ended itself, if that has little time to do so
    monkeypatch.setattr(watching, "MARGIN", 4.0)
    server = serve(longest_call=5.0)
    with grpc.insecure_channel(server.address) as channel:
        stub = CacheStoreStub(channel)  # type: ignore[no-untyped-call]
        call = stub.Watch(wire.WatchRequest(), timeout=30.0)
        messages = snapshot(call)
        put(0, 2)
        messages += list(call)
        assert call.code() is grpc.StatusCode.OK
        put(2, 4)
        place = wire.WatchRequest(epoch=messages[-1].epoch, sequence=messages[-1].sequence)
        messages += list(stub.Watch(place, timeout=30.0))
        assert keys_of(messages) == list(CHAIN.keys[:4])


def test_there_is_a_bound_on_watches_and_whoever_leaves_makes_room(stub: Any, server: CacheStoreServer) -> None:
    calls = [stub.Watch(wire.WatchRequest(), timeout=30.0) for _ in range(watching.WATCHERS)]
    for call in calls:
        snapshot(call)
    with pytest.raises(grpc.RpcError) as refused:
        next(stub.Watch(wire.WatchRequest(), timeout=SOON))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    calls.pop().cancel()
    until = time.monotonic() + SOON
    for _ in itertools.count():
        call = stub.Watch(wire.WatchRequest(), timeout=SOON)
        try:
            snapshot(call)
            break
        except grpc.RpcError:
            assert time.monotonic() < until
            time.sleep(0.05)
    for one in (*calls, call):
        one.cancel()
    while server.calls.used and time.monotonic() < until:
        time.sleep(0.01)
    assert server.calls.used == 0
