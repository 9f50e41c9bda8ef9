"""What the gateway knows of the decode workers: from the cluster map, and from what it has under way."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from cachestore.codecs import create
from cachestore.eviction.lru import Lru
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from gateway.worker import MOST_SENT, Worker
from gateway.workers import Workers

SPEC = bytes(32)


def member(name: str, queue: int = 0, life: int = 1, spec: bytes = SPEC) -> Member:
    return Member("decode", name, f"127.0.0.1:{1 + int(name)}", "here", bytes([life]) * 16, queue, spec)


@pytest.fixture
def server() -> Iterator[CacheStoreServer]:
    with TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as store:
        with CacheStoreServer(store, ServiceSettings(port=0)) as server:
            yield server


def test_the_queue_is_its_own_count_and_what_was_sent_since() -> None:
    worker = Worker(member("1"), "store", Credentials())
    assert worker.load == 0
    worker.under_way = 3
    assert worker.load == 3, "the map does not know of them yet"
    worker.heard(5)
    assert worker.load == 5, "three of them are ours"
    worker.under_way = 4
    assert worker.load == 6
    worker.under_way = 0
    assert worker.load == 2, "two of others"


def test_what_was_sent_counts_up_to_the_first_gap_and_in_its_namespace() -> None:
    worker = Worker(member("1"), "store", Credentials())
    keys = [bytes([number]) * 32 for number in range(5)]
    worker.remember("acme", keys[:3])
    assert worker.sent("acme", keys) == 3 and worker.sent("umbrella", keys) == 0
    assert worker.sent("acme", [keys[4], *keys]) == 0
    worker.remember("acme", (number.to_bytes(32, "big") for number in range(1, MOST_SENT + 1)))
    assert worker.sent("acme", keys) == 0


async def eventually(holds: Callable[[], object]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not hold within 5 s")


def test_workers_come_move_and_go(server: CacheStoreServer) -> None:
    async def follow(store: RemoteStore) -> None:
        def names() -> list[tuple[str, int]]:
            return sorted((worker.member.name, worker.load) for worker in workers.all())

        store.register(member("1", 2), 60)
        store.register(member("2", spec=bytes(31) + b"x"), 60)
        workers = Workers([server.address], SPEC, 0.02, 0.1, 30.0)
        await workers.open()
        assert names() == [("1", 2)], "the other one serves another spec"
        store.register(member("3"), 60)
        await eventually(lambda: names() == [("1", 2), ("3", 0)])
        first = next(worker for worker in workers.all() if worker.member.name == "1")
        store.register(member("1", 0, life=2), 60)
        await eventually(lambda: names() == [("1", 0), ("3", 0)])
        again = next(worker for worker in workers.all() if worker.member.name == "1")
        assert again is not first, "another life of it"
        workers.failed(again)
        assert [worker.member.name for worker in workers.ready(set())] == ["3"]
        third = workers.ready(set())[0]
        assert workers.ready({id(third)}) == [again], "better one that just failed than none"
        await asyncio.sleep(0.15)
        assert len(workers.ready(set())) == 2
        # a store that is away says nothing of its workers
        await asyncio.to_thread(server.close, 0)
        await asyncio.sleep(0.1)
        assert len(workers.all()) == 2
        await workers.close()
        await workers.close()
        assert workers.all() == []

    with RemoteStore(server.address) as store:
        asyncio.run(follow(store))


def test_a_store_that_was_started_again_misses_nobody_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.workers.BLANK", 1.0)

    def served(port: int = 0) -> CacheStoreServer:
        kept = TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru())
        return CacheStoreServer(held.enter_context(kept), ServiceSettings(port=port))

    async def follow() -> None:
        def names() -> list[str]:
            return sorted(worker.member.name for worker in workers.all())

        with served() as first:
            with RemoteStore(first.address) as store:
                store.register(member("1"), 60)
                store.register(member("2"), 60)
            at = first.address
            workers = Workers([at], SPEC, 0.02, 0.1, 30.0)
            await workers.open()
        with served(int(at.rpartition(":")[2])), RemoteStore(at) as store:
            await asyncio.to_thread(store.register, member("3"), 60)
            await eventually(lambda: "3" in names())
            assert names() == ["1", "2", "3"], "the new one knows nothing of them yet"
            await asyncio.to_thread(store.register, member("1"), 60)
            await eventually(lambda: names() == ["1", "3"])
            await workers.close()

    with ExitStack() as held:
        asyncio.run(follow())
