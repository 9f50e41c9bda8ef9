"""KV events as a router reads them that knows vLLM's alone."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from cachestore.config import build
from cachestore.errors import ConfigError
from cachestore.hashing import Chain
from cachestore.service.events.kv_events import KvEvents
from cachestore.service.events.publisher import Publisher
from cachestore.store.base import put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, small_spec

SPEC = small_spec()
CHAIN, BLOCKS = random_prompt(SPEC, 8)
SOON = 5.0
LOOPBACK = "tcp://127.0.0.1:0"


class BlockStored(msgspec.Struct, omit_defaults=True, gc=False, tag=True):  # type: ignore[call-arg]
    block_hashes: list[bytes | int]
    parent_block_hash: bytes | int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None
    lookahead_token_ids: list[list[int]] | None = None


class BlockRemoved(msgspec.Struct, omit_defaults=True, gc=False, tag=True):  # type: ignore[call-arg]
    block_hashes: list[bytes | int]
    medium: str | None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, omit_defaults=True, gc=False, tag=True):  # type: ignore[call-arg]
    pass


class KVEventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):  # type: ignore[call-arg]
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


class Router:
    """Subscribes, and asks again for what it missed; keeps what it decoded."""

    def __init__(self, publisher: Publisher, topic: bytes = b"") -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.connect(publisher.endpoint)
        self.socket.subscribe(topic)
        self.publisher = publisher
        self.numbers: list[int] = []
        self.events: list[BlockStored | BlockRemoved | AllBlocksCleared] = []

    def hear(self, until: Callable[[], bool]) -> None:
        ends = time.monotonic() + SOON
        while not until():
            assert time.monotonic() < ends, self.events
            if self.socket.poll(50):
                self.take(self.socket.recv_multipart())

    def take(self, frames: list[bytes]) -> None:
        _, number, payload = frames
        assert len(number) == 8
        batch = msgspec.msgpack.decode(payload, type=KVEventBatch)
        assert abs(batch.ts - time.time()) < 60 and batch.data_parallel_rank == 0
        self.numbers.append(int.from_bytes(number, "big"))
        self.events += batch.events

    def replay(self, first: int) -> None:
        """Takes the messages from this number on, as vLLM's subscribers ask for them."""
        with self.context.socket(zmq.DEALER) as asking:
            asking.connect(self.publisher.replay)
            asking.send_multipart([b"", first.to_bytes(8, "big")])
            while True:
                assert asking.poll(1000 * SOON)
                delimiter, *frames = asking.recv_multipart()
                assert delimiter == b""
                if frames[1] == (-1).to_bytes(8, "big", signed=True):
                    assert frames == [b"", frames[1], b""]
                    return
                self.take(frames)

    def known(self) -> dict[tuple[str | None, str | None], set[bytes | int]]:
        """The hashes by medium and owner."""
        held: dict[tuple[str | None, str | None], set[bytes | int]] = {}
        for event in self.events:
            if isinstance(event, AllBlocksCleared):
                held.clear()
            elif isinstance(event, BlockStored):
                held.setdefault((event.medium, event.ownership), set()).update(event.block_hashes)
            else:
                held.setdefault((event.medium, event.ownership), set()).difference_update(event.block_hashes)
        return {place: hashes for place, hashes in held.items() if hashes}


@pytest.fixture
def publish(tiered: TieredStore) -> Iterator[Callable[..., Publisher]]:
    started: list[Publisher] = []

    def start(store: TieredStore | None = None, **settings: Any) -> Publisher:
        publisher = KvEvents(**{"endpoint": LOOPBACK, "replay": LOOPBACK, **settings}).start(store or tiered)
        assert publisher is not None
        publisher.open()
        started.append(publisher)
        return publisher

    yield start
    for publisher in started:
        publisher.close()
        publisher.close()


@pytest.fixture
def router() -> Iterator[Callable[..., Router]]:
    started: list[Router] = []

    def start(publisher: Publisher, topic: bytes = b"") -> Router:
        started.append(Router(publisher, topic))
        return started[-1]

    yield start
    for one in started:
        one.context.destroy(linger=0)


def test_a_router_decodes_what_is_stored_and_removed(publish: Any, router: Any, tiered: TieredStore) -> None:
    store = tiered.namespace("default")
    put_blocks(store, CHAIN.fingerprint, BLOCKS[:2])
    one = router(publish(topic="kv@node"), b"kv@")
    put_blocks(store, CHAIN.fingerprint, BLOCKS[:5])
    # a subscription takes a moment: what went before it is asked for
    until = time.monotonic() + SOON
    while one.known() != {("CPU", None): set(CHAIN.keys[:5])} and time.monotonic() < until:
        one.numbers, one.events = [], []
        one.replay(0)
    assert one.known() == {("CPU", None): set(CHAIN.keys[:5])}
    assert isinstance(one.events[0], AllBlocksCleared) and one.numbers == list(range(len(one.numbers)))
    stored = [event for event in one.events if isinstance(event, BlockStored)]
    assert [event.block_size for event in stored] == [SPEC.block_tokens] * len(stored)
    parents = {
        h: p for e in stored for h, p in zip(e.block_hashes, [e.parent_block_hash, *e.block_hashes], strict=False)
    }
    assert [parents[key] for key in CHAIN.keys[:5]] == [None, *CHAIN.keys[:4]]
    store.delete(Chain(CHAIN.fingerprint, CHAIN.keys[3:5]))
    one.hear(lambda: one.known() == {("CPU", None): set(CHAIN.keys[:3])})
    assert sorted(set(one.numbers)) == list(range(max(one.numbers) + 1))


def test_lower_tiers_are_storage_with_an_owner_and_clearing_clears(publish: Any, router: Any, tmp_path: Path) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "disk"), "capacity": "4MiB"}
    with compose({"tiers": [{"name": "cpu", "capacity": "4MiB"}, disk], "codecs": {"name": "raw"}}) as tiered:
        store = tiered.namespace("default")
        publisher = publish(tiered)
        one = router(publisher)
        put_blocks(store, CHAIN.fingerprint, BLOCKS[:3])
        assert tiered.settle()
        wanted = {("CPU", None): set(CHAIN.keys[:3]), ("STORAGE", "disk"): set(CHAIN.keys[:3])}
        until = time.monotonic() + SOON
        while one.known() != wanted and time.monotonic() < until:
            one.numbers, one.events = [], []
            one.replay(0)
        assert one.known() == wanted
        store.clear("disk")
        one.hear(lambda: one.known() == {("CPU", None): set(CHAIN.keys[:3])})
        assert sum(isinstance(event, AllBlocksCleared) for event in one.events) == 2
        publisher.close()


def test_what_is_kept_for_a_replay_is_bounded(publish: Any, router: Any, tiered: TieredStore) -> None:
    publisher = publish(buffer=2)
    one = router(publisher)
    store = tiered.namespace("default")
    until = time.monotonic() + SOON
    # each is told of by itself once a subscription is there, which takes a moment
    while len(one.numbers) < 5 and time.monotonic() < until:
        put_blocks(store, CHAIN.fingerprint, BLOCKS[:1])
        store.delete(CHAIN)
        if one.socket.poll(50):
            one.take(one.socket.recv_multipart())
    while one.socket.poll(200):
        one.take(one.socket.recv_multipart())
    last = max(one.numbers)
    one.numbers = []
    one.replay(0)
    assert one.numbers == [last - 1, last]


@pytest.mark.parametrize("request_", [[b"x" * 8], [b"", b"short"], [b"", b"", b"x" * 8, b"more"], [b""]])
def test_a_replay_that_is_no_request_is_ignored(publish: Any, router: Any, request_: list[bytes]) -> None:
    publisher = publish()
    one = router(publisher)
    with one.context.socket(zmq.DEALER) as asking:
        asking.connect(publisher.replay)
        asking.send_multipart(request_)
        one.replay(0)
    assert one.numbers == [0] and isinstance(one.events[0], AllBlocksCleared)


def test_another_namespace_is_not_told(publish: Any, router: Any, tiered: TieredStore) -> None:
    one = router(publish(namespace="tenant"))
    put_blocks(tiered.namespace("default"), CHAIN.fingerprint, BLOCKS[:2])
    put_blocks(tiered.namespace("tenant"), CHAIN.fingerprint, BLOCKS[2:3])
    until = time.monotonic() + SOON
    while not one.known() and time.monotonic() < until:
        one.numbers, one.events = [], []
        one.replay(0)
    assert one.known() == {("CPU", None): {CHAIN.keys[2]}}


def test_by_default_nothing_is_told(tiered: TieredStore) -> None:
    assert build(KvEvents, {}, "kv_events").start(tiered) is None


def test_an_address_in_use_is_refused_by_name(publish: Any, tiered: TieredStore) -> None:
    taken = publish().endpoint
    publisher = KvEvents(endpoint=LOOPBACK, replay=taken).start(tiered)
    assert publisher is not None
    with pytest.raises(ConfigError, match=r"kv_events\.replay"):
        publisher.open()


@pytest.mark.parametrize(
    "settings, field",
    [
        ({"endpoint": "tcp://*:5557"}, "endpoint"),
        ({"endpoint": "tcp://0.0.0.0:5557"}, "endpoint"),
        ({"endpoint": "tcp://10.0.0.1:5557"}, "endpoint"),
        ({"endpoint": "udp://127.0.0.1:5557"}, "endpoint"),
        ({"endpoint": "tcp://127.0.0.1"}, "endpoint"),
        ({"endpoint": LOOPBACK, "replay": "tcp://host.example:1"}, "replay"),
        ({"replay": LOOPBACK}, "replay"),
        ({"endpoint": "tcp://127.0.0.1:5557", "replay": "tcp://127.0.0.1:5557"}, "replay"),
        ({"endpoint": LOOPBACK, "buffer": 0}, "buffer"),
        ({"endpoint": LOOPBACK, "backlog": -1}, "backlog"),
        ({"endpoint": LOOPBACK, "namespace": ""}, "namespace"),
        ({"endpiont": LOOPBACK}, "endpiont"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"kv_events\.{field}"):
        build(KvEvents, settings, "kv_events")


def test_off_loopback_it_takes_a_word() -> None:
    assert build(KvEvents, {"endpoint": "tcp://*:5557", "insecure": True}, "kv_events").endpoint == "tcp://*:5557"
