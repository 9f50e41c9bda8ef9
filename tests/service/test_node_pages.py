"""Pages of one worker, found by the store and read by another: each in a process of its own."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cachestore.block import Half, Part
from cachestore.deadline import Deadline
from cachestore.errors import Mismatch, PermissionDenied
from cachestore.eviction.lru import Lru
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.pages.node_pages import NodePages
from cachestore.service.pages.on_device import OnDevice, on_device
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared import pages as session_pages
from cachestore.store.base import put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, random_prompt, same, small_spec
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_memory import GRANULE, HostMemory, memory_of
from cachestore.tiers.gpu_tier import GpuTier
from tests.service.page_owner import answer
from tests.service.sessions import SOON

OWNER = Path(__file__).with_name("page_owner.py")
KEYS, BLOCKS = random_prompt(small_spec(), 8)


class Owner:
    """A worker that owns pages."""

    namespace: bytes

    def ask(self, **what: Any) -> int:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def registers(self, seed: int = 1, count: int = 8) -> None:
        assert self.ask(put=[seed, count]) == count
        assert self.ask(sync=0) >= count


class Apart(Owner):
    """One in a process of its own."""

    def __init__(self, address: str, device: str = "cpu", capacity: int = 4 * GRANULE, **environment: str) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.popen = subprocess.Popen(
            [sys.executable, str(OWNER), address, device, str(capacity)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )  # fmt: skip
        self.namespace = bytes.fromhex(self.line())

    def line(self) -> Any:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, "the owner is gone"
        return json.loads(line)

    def ask(self, **what: Any) -> int:
        assert self.popen.stdin is not None
        print(json.dumps(what), file=self.popen.stdin, flush=True)
        return int(self.line())

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()


class Here(Owner):
    """One in this process, whose end is that of its session: its memory stays, as that of a killed one may."""

    def __init__(self, address: str, device: str = "cpu", capacity: int = 4 * GRANULE) -> None:
        self.tier = Gpu(capacity=capacity, device=device, slab=GRANULE).start(Lru())
        self.tier.open(lambda departures: None)
        self.store = RemoteStore(address)
        self.store.open()
        self.pages = NodePages(self.store, device, self.tier)
        self.pages.open()
        self.namespace = self.pages.namespace()

    def ask(self, **what: Any) -> int:
        return answer(self.tier, self.pages, "cpu", what)

    def kill(self) -> None:
        self.pages.close()
        self.store.close()


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


@pytest.fixture
def opened() -> Iterator[Callable[..., tuple[RemoteStore, NodePages]]]:
    """A reader's store, and the pages beside it."""
    with ExitStack() as held:

        def begin(address: str, device: str = "cpu", **options: Any) -> tuple[RemoteStore, NodePages]:
            store = held.enter_context(RemoteStore(address, **options))
            return store, held.enter_context(NodePages(store, device))

        yield begin


def tiers(pages: NodePages | RemoteStore, keys: Any = KEYS) -> list[tuple[str, int]]:
    return [(run.tier, run.blocks) for run in pages.lookup(keys).runs]


def within(seconds: float, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


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


@contextmanager
def opened_tier(capacity: int = 4 * GRANULE) -> Iterator[GpuTier]:
    tier = Gpu(capacity=capacity, device="cpu", slab=GRANULE).start(Lru())
    tier.open(lambda departures: None)
    try:
        yield tier
    finally:
        tier.close()


def filled(tier: GpuTier, pages: NodePages, seed: int = 1, count: int = 8) -> None:
    keys, blocks = random_prompt(small_spec(), count, seed)
    on = [
        DeviceBlock(one.key, one.token_count, one.planes, torch.from_numpy(np.concatenate(one.data))) for one in blocks
    ]
    assert all(tier.put_pages(pages.namespace(), keys.fingerprint, on, Deadline.after(SOON)))


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


def taking_back(owner: Owner) -> Callable[[HostMemory, Tensor, Tensor], None]:
    """A copy within which the owner takes its pages back, the first time."""
    copy, copied = HostMemory.copy, list[Tensor]()

    def copying(self: HostMemory, source: Tensor, target: Tensor) -> None:
        copy(self, source, target)
        if not copied:
            copied.append(source)
            owner.ask(drop=0)

    return copying
