"""Pages of one worker, found by the store and read by another: each in a process of its own."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from cachestore.block import Half, Part
from cachestore.errors import PermissionDenied
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.pages.node_pages import NodePages
from cachestore.service.pages.on_device import OnDevice, on_device
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.testing import check_sums, random_prompt, same, small_spec
from cachestore.tiers.gpu_memory import HostMemory, memory_of
from tests.service.page_owners import BLOCKS, KEYS, Apart, Here, Owner, opened_tier, tiers, within


@pytest.fixture(params=["here", pytest.param("apart", marks=pytest.mark.slow)])
def apart(request: pytest.FixtureRequest) -> bool:
    """Whether store, owner and reader are three processes."""
    return bool(request.param == "apart")


@pytest.fixture
def address(apart: bool, process: Any, serve: Callable[..., CacheStoreServer]) -> str:
    """Where a store is served."""
    return str((process if apart else serve)().address)


@pytest.fixture
def own(apart: bool) -> Iterator[Callable[..., Owner]]:
    """Starts owners, and ends them."""
    started: list[Owner] = []

    def start(address: str, *given: Any, **options: Any) -> Owner:
        started.append((Apart if apart else Here)(address, *given, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def test_a_worker_reads_what_another_has_on_the_device(address: str, own: Callable[..., Owner], opened: Any) -> None:
    own(address).registers()
    reads_all(*opened(address), "cpu")


@pytest.mark.gpu
def test_a_worker_reads_what_another_has_on_a_gpu(process: Any, opened: Any) -> None:
    address = process().address
    one = Apart(address, "cuda")
    try:
        one.registers()
        reads_all(*opened(address, "cuda"), "cuda")
        # its pages are others' by now
        one.ask(drop=0)
        one.ask(put=[2, 8])
        _, pages = opened(address, "cuda")
        assert tiers(pages) == []
    finally:
        one.kill()


def reads_all(store: RemoteStore, pages: NodePages, device: str) -> None:
    """Reads what an owner has, in every way, and looks at what was counted."""
    assert tiers(pages) == [("gpu", 8)]
    with pages.read(KEYS) as reading:
        loaded = list(reading)
    assert [tier for _, tier in loaded] == ["gpu"] * 8
    for (block, _), wanted in zip(loaded, BLOCKS, strict=True):
        assert isinstance(block.data, OnDevice) and block.data.tensor.device.type == device
        assert on_device(block, block.data.tensor.device) is block.data.tensor and same(block, wanted)
    # the same into memory of the host, and a part of it
    into = [np.empty(sum(plane.nbytes for plane in block.data), dtype=np.uint8) for block in BLOCKS]
    with pages.read(KEYS, into=into) as reading:
        assert all(same(block, wanted) for (block, _), wanted in zip(reading, BLOCKS, strict=True))
    part = Part(halves=frozenset({Half.V}))
    with pages.read(KEYS, part=part) as reading:
        assert all(same(block, wanted, part) for (block, _), wanted in zip(reading, BLOCKS, strict=True))
    figures = store.stats()
    assert total(figures, "read_hits", tier="gpu") == total(figures, "read_blocks") == 24
    assert total(figures, "tier_blocks", tier="gpu") == 8 and total(figures, "tier_bytes", tier="gpu") > 8 * 1000
    assert total(figures, "transport_read_blocks", transport="pages") == 24
    check_sums(figures)


def test_who_cannot_open_the_device_sees_the_copies_below_only(
    address: str, own: Callable[..., Owner], opened: Any
) -> None:
    store, pages = opened(address)
    put_blocks(store, KEYS.fingerprint, BLOCKS[:3])
    own(address).registers()
    assert tiers(store) == [("cpu", 3)] and tiers(pages) == [("gpu", 8)]
    for transports in (("shared",), ("stream",)):
        other, _ = opened(address, transports=transports)
        with other.read(KEYS) as reading:
            assert [tier for _, tier in reading] == ["cpu"] * 3
    check_sums(store.stats())


@pytest.mark.parametrize("transport", ["shared", "bulk", "stream"])
def test_what_is_in_no_page_comes_from_the_store_under_the_same_lease(
    address: str, own: Callable[..., Owner], opened: Any, transport: str
) -> None:
    store, pages = opened(address, transports=(transport, "stream"))
    own(address).registers(count=5)
    put_blocks(store, KEYS.fingerprint, BLOCKS[5:])
    assert tiers(pages) == [("gpu", 5), ("cpu", 3)] and tiers(store) == []
    with pages.read(KEYS) as reading:
        loaded = list(reading)
    assert [tier for _, tier in loaded] == ["gpu"] * 5 + ["cpu"] * 3
    assert all(same(block, wanted) for (block, _), wanted in zip(loaded, BLOCKS, strict=True))
    host = on_device(loaded[-1].block, memory_of("cpu").device)
    assert isinstance(host, Tensor) and np.array_equal(host.numpy(), np.concatenate(BLOCKS[-1].data))
    figures = store.stats()
    assert total(figures, "read_hits", tier="gpu") == 5 and total(figures, "read_hits", tier="cpu") == 3
    assert total(figures, "read_blocks") == 8 and total(figures, "leases_open") == 0
    check_sums(figures)


@pytest.mark.parametrize("below", [0, 8])
def test_a_page_that_is_reused_while_it_is_copied_is_a_miss_and_counted(
    address: str, own: Callable[..., Owner], opened: Any, monkeypatch: pytest.MonkeyPatch, below: int
) -> None:
    store, pages = opened(address)
    put_blocks(store, KEYS.fingerprint, BLOCKS[:below])
    one = own(address)
    one.registers()
    copy, copied = HostMemory.copy, [0]

    def slow(self: HostMemory, source: Tensor, target: Tensor) -> None:
        copy(self, source, target)
        copied[0] += 1
        if copied[0] == 3:
            # others' blocks are in all its pages when this copy is over
            one.ask(drop=0)
            assert one.ask(put=[2, 8]) == 8

    monkeypatch.setattr(HostMemory, "copy", slow)
    with pages.read(KEYS) as reading:
        loaded = list(reading)
    assert [tier for _, tier in loaded] == ["gpu"] * 2 + ["cpu"] * max(0, below - 2)
    assert all(same(block, wanted) for (block, _), wanted in zip(loaded, BLOCKS, strict=False))
    # what it took back is not shown any more, before it says so
    assert tiers(pages) == ([("cpu", 8)] if below else [])
    figures = store.stats()
    assert total(figures, "corruptions", tier="gpu", reason="stale") == 1
    assert total(figures, "read_misses") == (0 if below else 6)
    check_sums(figures)
    # what it has now is shown once it says so
    other, blocks = random_prompt(small_spec(), 8, 2)
    assert tiers(pages, other) == [] and one.ask(sync=0) == 8 and tiers(pages, other) == [("gpu", 8)]
    with pages.read(other) as reading:
        assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True))


def test_bytes_that_are_not_the_blocks_are_a_miss_and_the_page_is_shown_no_more(
    address: str, own: Callable[..., Owner], opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(address).registers()
    store, pages = opened(address)
    copy = HostMemory.copy

    def flipping(self: HostMemory, source: Tensor, target: Tensor) -> None:
        copy(self, source, target)
        target[0] ^= 1

    with monkeypatch.context() as patch:
        patch.setattr(HostMemory, "copy", flipping)
        with pages.read(KEYS) as reading:
            assert list(reading) == []
    figures = store.stats()
    assert total(figures, "corruptions", tier="gpu", reason="checksum") == 1
    assert total(figures, "tier_removed", tier="gpu", why="corrupt") == 1
    assert tiers(pages) == []
    check_sums(figures)


def test_with_the_owner_its_pages_are_gone(address: str, own: Callable[..., Owner], opened: Any) -> None:
    one = own(address)
    one.registers()
    store, pages = opened(address)
    reading = pages.read(KEYS, timeout=5.0)
    first = next(iter(reading))
    one.kill()
    within(5.0, lambda: tiers(pages) == [])
    begun = time.monotonic()
    # memory that it has open already is what it was, or the read ends: nothing else
    loaded = [first, *reading]
    assert all(same(block, wanted) for (block, _), wanted in zip(loaded, BLOCKS, strict=False))
    reading.close()
    with pages.read(KEYS, timeout=5.0) as reading:
        assert list(reading) == []
    assert time.monotonic() - begun < 6.0
    figures = store.stats()
    assert total(figures, "tier_removed", tier="gpu", why="lost") == 8 == total(figures, "read_misses", purpose="reuse")
    assert total(figures, "tier_blocks", tier="gpu") == 0
    check_sums(figures)


@pytest.mark.slow
def test_an_owner_that_stands_still_hangs_nobody(process: Any, opened: Any) -> None:
    address = process().address
    one = Apart(address)
    try:
        one.registers()
        _, pages = opened(address)
        os.kill(one.popen.pid, signal.SIGSTOP)
        with pages.read(KEYS, timeout=5.0) as reading:
            assert all(same(block, wanted) for (block, _), wanted in zip(reading, BLOCKS, strict=True))
    finally:
        one.kill()


def test_deleted_and_cleared_blocks_leave_the_owner_too(address: str, own: Callable[..., Owner], opened: Any) -> None:
    one = own(address)
    one.registers()
    store, pages = opened(address)
    last, _ = random_prompt(small_spec(), 8)
    assert store.delete(type(KEYS)(KEYS.fingerprint, last.keys[6:])) == 2
    assert tiers(pages) == [("gpu", 6)]
    assert one.ask(sync=0) == 6 == one.ask(held=0)
    assert store.clear("gpu") == 6 and tiers(pages) == []
    assert one.ask(sync=0) == 0 == one.ask(held=0)
    one.registers(count=2)
    assert tiers(pages) == [("gpu", 2)]
    check_sums(store.stats())


@pytest.mark.slow
def test_another_store_is_told_anew_and_gets_nothing_that_may_have_been_deleted(process: Any, opened: Any) -> None:
    first = process()
    one = Here(first.address)
    try:
        one.registers()
        first.kill()
        second = process(port=int(first.address.rsplit(":", 1)[1]))
        assert one.ask(sync=0) == 0 == one.ask(held=0)
        one.registers(count=3)
        _, pages = opened(second.address)
        assert tiers(pages) == [("gpu", 3)]
    finally:
        one.kill()


def test_another_namespace_sees_nothing(
    serve: Callable[..., CacheStoreServer], people: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve(**people.settings).address
    with monkeypatch.context() as patch:
        patch.setenv("CACHESTORE_TOKEN", people.tokens["alice"])
        one = Here(address)
    one.registers()
    strange, foreign = opened(address, credentials=people.credentials("bob"))
    store, reader = opened(address, credentials=people.credentials("reader"))
    assert one.namespace == reader.namespace() != foreign.namespace()
    assert tiers(foreign) == [] and tiers(reader) == [("gpu", 8)]
    with foreign.read(KEYS) as reading:
        assert list(reading) == []
    # a reader may read, and own nothing
    with opened_tier() as tier, NodePages(store, "cpu", tier) as pages, pytest.raises(PermissionDenied):
        pages.sync()
    assert total(strange.stats(), "tier_blocks") == 0 < total(store.stats(), "tier_blocks")
    one.kill()
