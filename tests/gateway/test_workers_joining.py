"""The gateway knows workers beside stores that joined after it had started, and forgets them with their stores."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from threading import enumerate as threads

import pytest

from cachestore.cluster.host import StoreHost
from cachestore.hashing import Chain
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from gateway.keys import ANYBODY
from gateway.prefixes import Prefixes
from gateway.workers import Workers
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import hosted, tables
from tests.redis_servers.server import RedisServer

SPEC = bytes(32)


def test_stores_that_join_are_asked_and_take_their_workers_along(
    redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.GONE", 0.5)
    redis = redis_server()
    gone: list[str] = []

    def start(name: str, port: int = 0) -> StoreHost:
        return stack.enter_context(hosted(tables(redis), name, port))

    def register(host: StoreHost, name: str) -> None:
        with RemoteStore(host.address(), transports=("stream",)) as store:
            store.register(Member("decode", name, f"127.0.0.1:{1 + int(name)}", "here", bytes(16), 0, SPEC), 60)

    async def known(workers: Workers, *names: str) -> None:
        async with asyncio.timeout(20):
            while sorted(worker.member.name for worker in workers.all()) != list(names):
                await asyncio.sleep(0.02)

    async def follow() -> None:
        a, b = [await asyncio.to_thread(start, name) for name in "ab"]
        workers = Workers([a.address(), b.address()], SPEC, 0.05, 0.1, 30.0, gone.append)
        await workers.open()
        try:
            await asyncio.to_thread(register, b, "1")
            c = await asyncio.to_thread(start, "c")
            await asyncio.to_thread(register, c, "2")
            await known(workers, "1", "2")
            await asyncio.to_thread(c.close)
            await known(workers, "1")
            assert gone == [c.address()]
            address = b.address()
            await asyncio.to_thread(b.close)
            await known(workers)
            # this one was named, and is asked for ever
            b = await asyncio.to_thread(start, "b", int(address.rpartition(":")[2]))
            await asyncio.to_thread(register, b, "3")
            await known(workers, "3")
        finally:
            await workers.close()

    with ExitStack() as stack:
        asyncio.run(follow())


def test_what_was_followed_of_a_store_that_is_gone_ends() -> None:
    def following() -> int:
        return sum(thread.name == "cachestore-mirror" for thread in threads())

    before, prefixes = following(), Prefixes(SPEC)
    for address in ("127.0.0.1:1", "127.0.0.1:2"):
        prefixes.stored(address, ANYBODY, "", Chain(SPEC, (SPEC,)))
    assert following() == before + 2
    prefixes.forget("127.0.0.1:1")
    eventually(lambda: following() == before + 1)
    prefixes.close()
