"""A commit that asks for a lease says the truth: what it published is stored, with a lease or without one."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore.metrics import total
from cachestore.store.base import Durability, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks

SPEC = small_spec()


@pytest.mark.parametrize("durability", list(Durability))
def test_a_commit_whose_lease_is_refused_is_stored_and_written_down(
    open_store: Callable[..., TieredStore], redis_server: Callable[..., Any], durability: Durability
) -> None:
    server = redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"])
    tiered = open_store("1MiB", {"url": server.url, "durable": "aof"})
    store = tiered.namespace("a")
    tiered.leases.most = 1
    others, blocks = random_prompt(SPEC, 1, seed=2)
    put_blocks(store, others.fingerprint, blocks)
    held = store.lease(others)
    keys, blocks = random_prompt(SPEC, 3)
    with store.put(keys.fingerprint, plans_of(blocks), durability=durability) as put:
        write_blocks(put, blocks)
        assert put.commit([0, 1], lease=5.0) is None
        assert [str(answer.status) for answer in put.answers] == ["stored", "stored", "wanted"]
        store.release(held)
        lease = put.commit([2], lease=5.0)
        assert lease is not None and lease.blocks == 3
        store.release(lease)
    assert tiered.settle() and store.clear("cpu") == 4
    with store.read(keys) as reading:
        assert all(same(block, ours) for (block, _), ours in zip(reading, blocks, strict=True))
    assert total(store.stats(), "leases_open") == 0
