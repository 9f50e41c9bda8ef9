"""What a Redis server that stopped acknowledging means for a durable put."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore.errors import DurabilityUnmet
from cachestore.store.base import Durability, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

KEYS, BLOCKS = random_prompt(small_spec(), 3)


def test_what_is_there_and_cannot_be_made_durable_fails_the_put(
    open_store: Callable[..., TieredStore], redis_server: Callable[..., Any]
) -> None:
    server = redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"])
    tiered = open_store("1MiB", {"url": server.url, "durable": "aof", "timeout": 2.0, "connect_timeout": 2.0})
    store = tiered.namespace("a")
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    assert tiered.settle()
    with server.client() as client:
        client.config_set("appendfsync", "everysec")
    with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
        write_blocks(put, BLOCKS)
        with pytest.raises(DurabilityUnmet, match="3 of 3 blocks"):
            put.commit()
