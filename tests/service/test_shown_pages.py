"""Which pages are shown to whom and until when, and what a reader gets where none are."""

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cachestore.deadline import Deadline
from cachestore.errors import Mismatch
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.pages.node_pages import NodePages
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared import pages as session_pages
from cachestore.store.base import put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, random_prompt, same, small_spec
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_memory import HostMemory
from tests.service.page_owners import BLOCKS, KEYS, Here, filled, opened_tier, taking_back, tiers, within
from tests.service.sessions import SOON


def test_a_worker_is_not_shown_its_own_pages(server: CacheStoreServer, remote: RemoteStore, opened: Any) -> None:
    with opened_tier() as tier, NodePages(remote, "cpu", tier) as pages:
        filled(tier, pages)
        assert pages.sync() == 8 and tiers(pages) == []
        _, other = opened(server.address)
        assert tiers(other) == [("gpu", 8)]
        # said once, and twice
        assert pages.sync() == 8
        pages.close()
        within(SOON, lambda: tiers(other) == [])
        # what it has left is registered anew
        assert pages.sync() == 8 and tiers(other) == [("gpu", 8)]


def test_what_ends_is_not_shown(server: CacheStoreServer, remote: RemoteStore, opened: Any) -> None:
    keys, (block, *_) = random_prompt(small_spec(), 1)
    _, other = opened(server.address)
    with opened_tier() as tier, NodePages(remote, "cpu", tier) as pages:
        tensor = torch.from_numpy(np.concatenate(block.data))
        ends = int(time.time() * 1000) + 700
        one = DeviceBlock(block.key, block.token_count, block.planes, tensor, expires=ends)
        assert tier.put_pages(pages.namespace(), keys.fingerprint, [one], Deadline.after(SOON)) == [True]
        assert pages.sync() == 1 and tiers(other, keys) == [("gpu", 1)]
        within(SOON, lambda: tiers(other, keys) == [])


def test_nothing_of_it_is_left_open(server: CacheStoreServer, tiered: TieredStore, opened: Any) -> None:
    def once() -> None:
        with RemoteStore(server.address) as store, opened_tier() as tier, NodePages(store, "cpu", tier) as pages:
            filled(tier, pages)
            pages.sync()
            with RemoteStore(server.address) as other, NodePages(other, "cpu") as reader, reader.read(KEYS) as reading:
                assert len(list(reading)) == 8
        within(SOON, lambda: total(server.figures(), "sessions") == 0)

    once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        once()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert total(tiered.namespace("default").stats(), "tier_blocks", tier="gpu") == 0


def test_without_pages_a_read_is_the_stores(server: CacheStoreServer, opened: Any) -> None:
    store, pages = opened(server.address)
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    assert tiers(pages) == [("cpu", 8)]
    with pages.read(KEYS) as reading:
        assert [tier for _, tier in reading] == ["cpu"] * 8
    figures = store.stats()
    assert total(figures, "read_hits", tier="cpu") == 8 == total(figures, "transport_read_blocks", transport="shared")


def test_a_store_that_shares_no_memory_is_read_as_ever(serve: Callable[..., CacheStoreServer], opened: Any) -> None:
    store, pages = opened(serve(shared=False).address)
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    assert tiers(pages) == [("cpu", 8)]
    with pages.read(KEYS) as reading:
        assert len(list(reading)) == 8
    with (
        opened_tier() as tier,
        NodePages(store, "cpu", tier) as owned,
        pytest.raises(Mismatch, match="shares no memory"),
    ):
        owned.sync()


def test_a_long_chain_is_shown_in_several_answers(
    server: CacheStoreServer, remote: RemoteStore, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_pages, "SHOWN_BYTES", 1500)
    store, other = opened(server.address)
    with opened_tier() as tier, NodePages(remote, "cpu", tier) as pages:
        filled(tier, pages)
        pages.sync()
        with other.read(KEYS) as reading:
            assert [tier for _, tier in reading] == ["gpu"] * 8
    figures = store.stats()
    assert total(figures, "read_hits", tier="gpu") == 8 == total(figures, "read_blocks")
    assert total(figures, "transport_read_blocks", transport="pages") == 8


def test_pages_of_the_store_and_of_workers_are_one_tier(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [{"name": "cpu", "capacity": "8MiB"}, {"name": "gpu", "capacity": "4MiB", "device": "cpu"}]
    with (
        compose({"tiers": tables, "store": {"hot_after": 1}}) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
    ):
        store, pages = opened(server.address)
        put_blocks(store, KEYS.fingerprint, BLOCKS)
        with store.read(KEYS) as reading:
            assert len(list(reading)) == 8
        within(SOON, lambda: total(store.stats(), "tier_blocks", tier="gpu") == 8)
        store.clear("cpu")
        one = Here(server.address)
        one.registers(count=5)
        figures = store.stats()
        assert total(figures, "tier_blocks", tier="gpu") == 13
        assert len({(figure.name, figure.labels) for figure in figures}) == len(figures)
        check_sums(figures)
        # the first page is gone under its reader's hands: the store has a page of its own
        monkeypatch.setattr(HostMemory, "copy", taking_back(one))
        with pages.read(KEYS) as reading:
            assert all(same(block, wanted) for (block, _), wanted in zip(reading, BLOCKS, strict=True))
        figures = store.stats()
        assert total(figures, "corruptions", tier="gpu", reason="stale") == 1
        assert total(figures, "read_hits") == 16
        check_sums(figures)
        one.kill()
        tiered.check()
