"""Health: each tier and path is tried with a block, heals by itself, and takes nothing from the whole."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from cachestore.codecs import create
from cachestore.deadline import Deadline
from cachestore.eviction.lru import Lru
from cachestore.hashing import namespace_id
from cachestore.service.auth.certificates import Made
from cachestore.service.auth.settings import NAME
from cachestore.service.health.canary import NAMESPACE, kept_in_memory
from cachestore.service.health.probing import Prober
from cachestore.service.health.servicer import NOT_SERVING, SERVICE, SERVING, UNHEARD_OF, Health
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, small_spec
from cachestore.tiers.base import ColdTier
from cachestore.tiers.cpu import Cpu
from cachestore.tiers.disk import Disk
from tests.service.tls_sides import one_way

EVERY = 0.05


@pytest.fixture
def disk(tmp_path: Path) -> ColdTier:
    return Disk(path=str(tmp_path / "disk"), capacity=16 << 20).start(Lru())


@pytest.fixture
def served(disk: ColdTier) -> Iterator[CacheStoreServer]:
    """A store with memory and a disk, looked at all the time."""
    with (
        TieredStore(Cpu(16 << 20).start(), (disk,), create("raw"), Lru()) as store,
        CacheStoreServer(store, ServiceSettings(port=0, probe_every=EVERY)) as server,
    ):
        yield server


@pytest.fixture
def health(served: CacheStoreServer) -> Iterator[Any]:
    with grpc.insecure_channel(served.address) as channel:
        yield HealthStub(channel)


def listed(health: Any) -> dict[str, int]:
    return {name: said.status for name, said in health.List(HealthListRequest(), timeout=5).statuses.items()}


def test_every_tier_and_path_serves(health: Any, eventually: Callable[[Callable[[], object]], None]) -> None:
    names = {"", SERVICE, "tier/cpu", "tier/disk", "path/stream", "path/shared", "path/bulk"}
    eventually(lambda: listed(health) == dict.fromkeys(names, SERVING))
    assert health.Check(HealthCheckRequest(service="tier/disk"), timeout=5).status == SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(HealthCheckRequest(service="tier/tape"), timeout=5)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_tier_that_loses_blocks_is_told_and_heals(health: Any, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = health.Watch(HealthCheckRequest(service="tier/disk"), timeout=20)
    while next(watch).status != SERVING:
        pass
    # says that it keeps blocks, and does not: what it thinks of itself is not asked
    with monkeypatch.context() as patch:
        patch.setattr(type(disk), "get_many", lambda self, namespace, keys, deadline: [None] * len(keys))
        assert next(watch).status == NOT_SERVING
        said = listed(health)
        assert said["tier/disk"] == NOT_SERVING and said[""] == said[SERVICE] == said["tier/cpu"] == SERVING
    assert next(watch).status == SERVING
    watch.cancel()


def test_a_block_that_comes_back_otherwise_is_no_success(
    health: Any, disk: Any, monkeypatch: pytest.MonkeyPatch, eventually: Callable[[Callable[[], object]], None]
) -> None:
    eventually(lambda: listed(health)["tier/disk"] == SERVING)
    honest = type(disk).get_many

    def flipped(self: Any, namespace: bytes, keys: Any, deadline: Deadline) -> Any:
        found = honest(self, namespace, keys, deadline)
        found[0][-1] ^= 1
        return found

    monkeypatch.setattr(type(disk), "get_many", flipped)
    eventually(lambda: listed(health)["tier/disk"] == NOT_SERVING)


def test_canaries_leave_nothing_and_are_nobodys(
    served: CacheStoreServer, disk: Any, health: Any, eventually: Callable[[Callable[[], object]], None]
) -> None:
    eventually(lambda: listed(health)["path/bulk"] == SERVING)
    time.sleep(5 * EVERY)
    served.close()
    assert NAME.fullmatch(NAMESPACE) is None
    assert disk.keys(namespace_id(NAMESPACE)) == [] and disk.usage().used == 0
    store = served._store
    assert store.memory.usage().used == 0
    counted = {figure.name for figure in store.namespace("default").stats() if figure.value}
    assert not counted & {"reads", "puts", "lookups", "tier_blocks", "put_stored"}


def test_memory_that_is_full_of_blocks_serves_and_gives_none_of_them_up() -> None:
    with TieredStore(Cpu(1 << 20).start(), (), create("raw"), Lru()) as store:
        keys, blocks = random_prompt(small_spec(), 400)
        put_blocks(store.namespace("a"), keys.fingerprint, blocks)
        before = store.memory.usage().used
        assert before > 900 << 10
        for _ in range(3):
            assert kept_in_memory(store, Deadline.after(1.0))
        assert store.memory.usage().used == before


def test_memory_whose_lock_is_never_free_does_not_serve() -> None:
    with TieredStore(Cpu(1 << 20).start(), (), create("raw"), Lru()) as store:
        locked, free = threading.Event(), threading.Event()

        def hold() -> None:
            with store.index.changed:
                locked.set()
                free.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        assert locked.wait(5)
        begun = time.monotonic()
        assert not kept_in_memory(store, Deadline.after(0.2))
        assert time.monotonic() - begun < 1.2
        free.set()
        thread.join()
        assert kept_in_memory(store, Deadline.after(1.0))


def test_a_path_that_is_closed_does_not_serve(
    served: CacheStoreServer, health: Any, eventually: Callable[[Callable[[], object]], None]
) -> None:
    eventually(lambda: listed(health)["path/bulk"] == listed(health)["path/shared"] == SERVING)
    served.bulk.close(0)
    served.sessions.close()
    eventually(lambda: listed(health)["path/bulk"] == listed(health)["path/shared"] == NOT_SERVING)
    assert listed(health)[""] == listed(health)["path/stream"] == SERVING


def test_a_look_that_fails_is_no_end_of_looking(eventually: Callable[[Callable[[], object]], None]) -> None:
    health, broken = Health(), [True]

    def look(deadline: Deadline) -> bool:
        if broken[0]:
            raise RuntimeError("a bug")
        return True

    prober = Prober(health, {"tier/x": look}, EVERY)
    prober.open()
    eventually(lambda: health._said["tier/x"] == NOT_SERVING)
    broken[0] = False
    eventually(lambda: health._said["tier/x"] == SERVING)
    prober.close()


def test_a_name_that_is_none_may_be_watched(health: Any) -> None:
    watch = health.Watch(HealthCheckRequest(service="no such"), timeout=5)
    assert next(watch).status == UNHEARD_OF
    watch.cancel()


def test_one_who_stands_still_silences_nobody() -> None:
    said: list[HealthCheckResponse | None] = []
    health = Health()
    health.Watch(HealthCheckRequest(), Still(), said.append)
    stills = [Still() for _ in range(20)]
    for still in stills:
        health.Watch(HealthCheckRequest(), still, still.send)
        still.stands = True
    begun = time.monotonic()
    health.leave()
    assert time.monotonic() - begun < 4.0
    assert [one.status for one in said if one] == [SERVING, NOT_SERVING]
    assert health.Check(HealthCheckRequest(), Still()).status == NOT_SERVING


class Still(grpc.ServicerContext):  # type: ignore[misc]
    """A caller who takes nothing until its call is cancelled."""

    def __init__(self) -> None:
        self.stands = False
        self.cancelled = threading.Event()

    def send(self, response: HealthCheckResponse | None) -> None:
        if self.stands:
            assert self.cancelled.wait(10)

    def cancel(self) -> None:
        self.cancelled.set()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


Still.__abstractmethods__ = frozenset()


@pytest.mark.parametrize("tls", [False, True])
def test_the_bulk_port_is_tried_and_no_figure_has_it(
    serve: Callable[..., CacheStoreServer], made: Made, eventually: Callable[[Callable[[], object]], None], tls: bool
) -> None:
    server = serve(**(one_way(made) if tls else {}), probe_every=EVERY)
    # what did not serve before serves again because it was tried since then
    for _ in range(3):
        server._health.say("path/bulk", NOT_SERVING)
        eventually(lambda: server._health._said["path/bulk"] == SERVING)
    assert list(server.bulk.counters.figures()) == [] and not server.bulk.guests
