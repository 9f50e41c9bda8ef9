"""Who holds a block, in memory and in Redis."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachestore.directory.base import Directory
from cachestore.directory.memory import Board, MemoryDirectory
from cachestore.testing.directories import DirectoryTests
from cachestore.tiers.redis import Redis as Server
from tests.redis_servers.server import RedisServer


class TestMemory(DirectoryTests):
    @pytest.fixture
    def part(self) -> Iterator[Callable[..., Directory]]:
        board = Board()
        yield lambda ttl=30.0: MemoryDirectory(board, ttl)


class TestRedis(DirectoryTests):
    @pytest.fixture
    def part(
        self, redis_server: Callable[..., RedisServer], password: str, on: Any
    ) -> Iterator[Callable[..., Directory]]:
        with on(Server(redis_server(password=password, user="store").url)) as opened:
            yield opened


@pytest.mark.slow
class TestRedisCluster(DirectoryTests):
    @pytest.fixture
    def part(self, redis_cluster: list[RedisServer], on: Any) -> Iterator[Callable[..., Directory]]:
        url = f"cluster://127.0.0.1:{redis_cluster[0].port}"
        with on(Server(url)) as opened:
            yield opened
        for server in redis_cluster:
            with server.client() as client:
                client.flushall()


@pytest.mark.slow
class TestRedisSentinel(DirectoryTests):
    @pytest.fixture
    def part(self, redis_sentinel: Callable[..., Any], on: Any) -> Iterator[Callable[..., Directory]]:
        with on(Server(redis_sentinel().url)) as opened:
            yield opened
