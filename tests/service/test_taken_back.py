"""Memory that is given to another block while it is being sent: to its reader the block is gone, whatever was sent."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from cachestore.metrics import total
from cachestore.service.bulk import sending
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.stream import reading
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, same, small_spec


@pytest.mark.parametrize(("way", "module"), [("stream", reading), ("bulk", sending)])
def test_a_block_whose_memory_is_taken_back_while_it_is_sent_is_gone(
    server: CacheStoreServer, tiered: TieredStore, monkeypatch: pytest.MonkeyPatch, way: str, module: ModuleType
) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    others, values = random_prompt(small_spec(), 2, seed=2)
    local, ranges = tiered.namespace("default"), module.ranges
    with RemoteStore(server.address, transports=(way,)) as store:
        put_blocks(store, keys.fingerprint, blocks)
        lease = store.lease(keys)

        def meanwhile(*given: Any) -> Iterator[tuple[int, int]]:
            if local.lookup(keys).ready:
                local.release(lease)
                local.clear()
                put_blocks(local, others.fingerprint, values)
            return iter(ranges(*given))

        with monkeypatch.context() as patch:
            patch.setattr(module, "ranges", meanwhile)
            with store.read(keys, lease=lease) as read:
                assert list(read) == []
        with store.read(others) as read:
            assert all(map(same, (block for block, _ in read), values))
    figures = local.stats()
    assert total(figures, "transport_read_blocks") == 2 and total(figures, "corruptions") == 0
