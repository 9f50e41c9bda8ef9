"""A Redis that does one long thing and nothing else: a save, a script. Misses in time, and it heals by itself."""

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Any

import pytest
import redis

from cachestore.eviction.lru import Lru
from cachestore.testing.tiers import KEYS, A, departed, equal, soon, value
from cachestore.tiers.redis import Redis

PATIENCE = 0.3
LATE = 1.0


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("DEBUG", "SLEEP", "1.5"), marks=pytest.mark.slow, id="save"),
        pytest.param(("EVAL", "while true do end", "0"), id="script"),
    ],
)
def test_r2_a_server_in_one_long_command_holds_nobody_up(
    redis_server: Callable[..., Any], eventually: Callable[[Callable[[], object]], None], command: tuple[str, ...]
) -> None:
    server = redis_server(extra=["--lua-time-limit", "600"])
    tier = Redis(server.url, check_after=0.1, connect_timeout=PATIENCE, timeout=PATIENCE).start(Lru())
    tier.open(departed)
    assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True]

    def occupy() -> None:
        with redis.Redis.from_url(server.url, socket_timeout=20.0) as client, suppress(redis.ResponseError):
            client.execute_command(*command)

    occupied = Thread(target=occupy)
    try:
        begun = time.monotonic()
        occupied.start()
        eventually(lambda: tier.get_many(A, KEYS[:1], soon())[0] is None)
        asked = time.monotonic()
        assert tier.get_many(A, KEYS[:2], soon()) == [None, None] and tier.leading(A, KEYS[:2], soon()) == 0
        assert time.monotonic() - asked < 2 * PATIENCE + LATE
        assert tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [False]
        if command[0] == "EVAL":
            # after its time a server says that it is busy, and can be told to end
            time.sleep(max(0.0, begun + 0.8 - time.monotonic()))
            assert tier.get_many(A, KEYS[:1], soon()) == [None]
            with server.client() as client:
                client.script_kill()
        eventually(lambda: tier.present(A, KEYS[:1], soon()) == [True])
        assert equal(tier.get_many(A, KEYS[:1], soon())[0], value(0))
        assert tier.healthy
    finally:
        tier.close()
        occupied.join(10)
