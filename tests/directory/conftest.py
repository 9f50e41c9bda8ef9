"""Parts in a directory on real servers."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cachestore.directory.redis import Redis, RedisDirectory
from cachestore.tiers.redis import Redis as Server
from tests.redis_servers.server import RedisServer

QUICK = Redis(heartbeat=0.1, connect_timeout=2.0, timeout=2.0)
"""Nodes are heard of often. How soon a server that hangs is given up is looked at elsewhere."""


@contextlib.contextmanager
def parts(server: Server, settings: Redis = QUICK) -> Iterator[Callable[..., RedisDirectory]]:
    """Opens parts in the directory of these servers; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def opened(ttl: float = 30.0, **changes: object) -> RedisDirectory:
            directory = replace(settings, ttl=ttl, **changes).start(server)  # type: ignore[arg-type]
            directory.open()
            stack.callback(directory.close)
            return directory

        yield opened


@pytest.fixture
def on() -> Callable[..., contextlib.AbstractContextManager[Callable[..., RedisDirectory]]]:
    """`parts`, for tests."""
    return parts


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server()


@pytest.fixture
def part(server: RedisServer, on: Any) -> Iterator[Callable[..., RedisDirectory]]:
    with on(Server(server.url)) as opened:
        yield opened
