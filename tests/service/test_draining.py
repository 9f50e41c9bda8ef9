"""A server that ends: it says so, refuses what is new, lets finish what runs, and is gone in time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from cachestore.errors import CacheStoreError, Unavailable
from cachestore.service.client import RemoteStore
from cachestore.service.health.servicer import NOT_SERVING, SERVING
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import PutStatus, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks
from cachestore.wire import store_pb2 as wire
from cachestore.wire.store_pb2_grpc import CacheStoreStub

GRACE = 3.0


class Closing:
    """A server that is closed in another thread."""

    def __init__(self, server: CacheStoreServer, grace: float | None = None) -> None:
        self.begun = time.monotonic()
        self._thread = threading.Thread(target=server.close, args=(grace,))
        self._thread.start()

    def took(self) -> float:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return time.monotonic() - self.begun


@pytest.fixture
def stream(server: CacheStoreServer) -> Iterator[RemoteStore]:
    with RemoteStore(server.address, transports=("stream",)) as store:
        yield store


def draining(health: Any) -> bool:
    return bool(health.Check(HealthCheckRequest(), timeout=5).status == NOT_SERVING)


def test_what_is_new_is_refused_and_what_runs_finishes(
    server: CacheStoreServer, stream: RemoteStore, channel: grpc.Channel,
    eventually: Callable[[Callable[[], object]], None],
) -> None:  # fmt: skip
    keys, blocks = random_prompt(small_spec(), 1)
    others, there = random_prompt(small_spec(), 2, seed=7)
    put_blocks(stream, others.fingerprint, there)
    lease = stream.lease(others)
    health = HealthStub(channel)
    with stream.put(keys.fingerprint, plans_of(blocks)) as put:
        closing = Closing(server, GRACE)
        eventually(lambda: draining(health) and server.drain.begun)
        for call in (
            lambda: stream.lookup(keys),
            lambda: stream.read(others),
            lambda: stream.put(keys.fingerprint, plans_of(blocks)),
            lambda: stream.lease(others),
        ):
            with pytest.raises(Unavailable, match="draining") as refused:
                call()
            assert refused.value.retryable
        # what ends something is taken
        stream.release(lease)
        for plane, data in enumerate(blocks[0].data):
            put.write(0, plane, data)
        put.commit()
        assert put.answers[0].status is PutStatus.STORED
    assert closing.took() < GRACE


def test_what_does_not_finish_is_cancelled(
    server: CacheStoreServer, stream: RemoteStore, eventually: Callable[[Callable[[], object]], None]
) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    put = stream.put(keys.fingerprint, plans_of(blocks), timeout=60)
    ended: list[int] = []

    def wait() -> None:
        # for what is being written, and never comes
        with suppress(CacheStoreError), stream.read(keys, wait=20.0, timeout=30.0) as reading:
            ended.append(len(list(reading)))

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: server.calls.used == 2)
    closing = Closing(server, 0.5)
    assert 0.5 <= closing.took() < 0.5 + 1
    with pytest.raises(CacheStoreError):
        put.commit()
    waiting.join(5)
    assert not waiting.is_alive() and sum(ended) == 0
    # no thread of the server still waits
    eventually(lambda: not [one for one in threading.enumerate() if one.name.startswith("cachestore-service")])


def test_a_server_with_nothing_to_do_ends_at_once(server: CacheStoreServer, stream: RemoteStore) -> None:
    assert stream.stats()
    assert Closing(server, 30.0).took() < 2.0


def test_watches_and_waits_keep_nobody(server: CacheStoreServer, stream: RemoteStore, channel: grpc.Channel) -> None:
    watches = [HealthStub(channel).Watch(HealthCheckRequest(), timeout=60) for _ in range(3)]
    assert {next(watch).status for watch in watches} == {SERVING}
    events = CacheStoreStub(channel).Watch(wire.WatchRequest(), timeout=60)  # type: ignore[no-untyped-call]
    assert next(events).tiers
    closing = Closing(server, 30.0)
    assert [[said.status for said in watch] for watch in watches] == [[NOT_SERVING]] * 3
    # it ends of itself, and whoever follows asks another store
    assert list(events) is not None
    assert closing.took() < 3.0


@pytest.mark.parametrize("way", ["stream", "shared"])
def test_a_reader_that_waits_is_let_go(
    server: CacheStoreServer, tiered: TieredStore, eventually: Callable[[Callable[[], object]], None], way: str
) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    ended: list[int] = []

    def wait() -> None:
        with suppress(CacheStoreError), store.read(keys, wait=30.0, timeout=30.0) as reading:
            ended.append(len(list(reading)))

    with (
        RemoteStore(server.address, transports=(way,)) as store,
        tiered.namespace("default").put(keys.fingerprint, plans_of(blocks), timeout=60.0),
    ):
        # so that the one call which runs after it is the read
        assert store.lookup(keys).writing == 1
        eventually(lambda: server.calls.used == 0)
        waiting = threading.Thread(target=wait)
        waiting.start()
        eventually(lambda: server.calls.used == 1)
        assert Closing(server, 30.0).took() < 3.0
        waiting.join(5)
        assert not waiting.is_alive() and sum(ended) == 0


def test_a_server_opened_again_serves(server: CacheStoreServer) -> None:
    server.close()
    server.open()
    with RemoteStore(server.address) as store, grpc.insecure_channel(server.address) as channel:
        assert store.stats() and not draining(HealthStub(channel))


def test_a_put_in_shared_memory_finishes_and_nothing_new_begins_there(server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    others, there = random_prompt(small_spec(), 1, seed=7)
    with RemoteStore(server.address, transports=("shared",)) as first:
        put_blocks(first, others.fingerprint, there)
        with RemoteStore(server.address, transports=("shared",)) as second:
            assert second.lookup(others).ready == 1
            with first.put(keys.fingerprint, plans_of(blocks)) as put:
                closing = Closing(server, GRACE)
                while not server.drain.begun:
                    time.sleep(0.01)
                with pytest.raises(Unavailable, match="draining"):
                    second.lookup(others)
                write_blocks(put, blocks)
                put.commit()
                assert [answer.status for answer in put.answers] == [PutStatus.STORED] * 2
            assert closing.took() < GRACE
