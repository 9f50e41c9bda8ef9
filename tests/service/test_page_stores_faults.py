"""Pages whose owner, tier or session fails or is gone: what was put is in the store, and read from there."""

import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cachestore.eviction.lru import Lru
from cachestore.metrics import total
from cachestore.service.pages import transport
from cachestore.service.pages.owner_store import OwnerStore
from cachestore.service.pages.reader_store import ReaderStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.shared.pages import SessionPages
from cachestore.store import owned_pages
from cachestore.store.base import Purpose, PutStatus, put_blocks
from cachestore.testing import check_sums, random_prompt, same, small_spec
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_memory import GRANULE, HostMemory
from cachestore.tiers.gpu_sharing import Export
from cachestore.tiers.gpu_tier import GpuTier
from tests.service.paged_blocks import BLOCKS, KEYS, check, room, tiers, used
from tests.service.sessions import SOON, holds

WRITER = Path(__file__).with_name("page_writer.py")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.slow
def test_between_processes(device: str, process: Any) -> None:
    """Read from the pages while their owner lives, and from the store when it was killed."""
    address = process().address
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    owner = subprocess.Popen(
        [sys.executable, str(WRITER), address, device],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        assert owner.stdin is not None and owner.stdout is not None
        print(json.dumps([1, 8]), file=owner.stdin, flush=True)
        assert int(owner.stdout.readline()) == 8
        with ReaderStore(address, device) as reader:
            assert tiers(reader) == [("gpu", 8)]
            with reader.read(KEYS, into=room(), purpose=Purpose.HANDOFF) as reading:
                check(list(reading), *["gpu"] * 8)
            with reader.read(KEYS, into=room()) as reading:
                loaded = [next(iter(reading))]
                owner.kill()
                owner.wait()
                loaded += reading
                # what is mapped stays; on a device it may be gone
                assert len(loaded) == 8
                check(loaded, *(tier for _, tier in loaded))
            holds(lambda: tiers(reader) == [("cpu", 8)])
            with reader.read(KEYS, into=room()) as reading:
                check(list(reading), *["cpu"] * 8)
            figures = reader.stats()
            assert total(figures, "tier_blocks", tier="gpu") == total(figures, "leases_open") == 0
            assert total(figures, "read_hits", tier="gpu", purpose="handoff") == 8
            check_sums(figures)
    finally:
        owner.kill()
        owner.communicate()


def test_a_tier_that_is_too_small_costs_pages_alone(server: CacheStoreServer, reader: ReaderStore) -> None:
    spec = small_spec()
    size = sum(plane.raw_bytes for plane in spec.planes())
    keys, blocks = random_prompt(spec, 3 * GRANULE // max(size, 4096), 5)
    tier = Gpu(capacity=GRANULE, device="cpu").start(Lru())
    tier.open(lambda departures: None)
    with OwnerStore(server.address, tier, "cpu") as owner:
        assert {one.status for one in put_blocks(owner, keys.fingerprint, blocks)} == {PutStatus.STORED}
        with reader.read(keys) as reading:
            assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True))
        assert 0 < used(tier) <= GRANULE
    tier.close()


def test_a_device_that_fails_costs_pages_alone(
    owner: OwnerStore, reader: ReaderStore, tier: GpuTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(tier.memory, "fill", broken, raising=False)
        assert {one.status for one in put_blocks(owner, KEYS.fingerprint, BLOCKS)} == {PutStatus.STORED}
    assert not used(tier) and tiers(reader) == [("cpu", 8)]


def test_what_was_deleted_does_not_come_back_with_its_owner(
    server: CacheStoreServer, reader: ReaderStore, tier: GpuTier
) -> None:
    """While it is away nobody tells it what is deleted; so it has nothing left."""
    with OwnerStore(server.address, tier, "cpu") as owner:
        put_blocks(owner, KEYS.fingerprint, BLOCKS)
        assert tiers(reader) == [("gpu", 8)]
    assert not used(tier)
    reader.delete(KEYS)
    with OwnerStore(server.address, tier, "cpu") as owner:
        owner.sync_pages()
        assert tiers(reader) == []
        put_blocks(owner, KEYS.fingerprint, BLOCKS[:2])
        assert tiers(reader) == [("gpu", 2)]
        # and while it is there, it hears of it
        reader.delete(KEYS)
        assert tiers(reader) == []
        owner.sync_pages()
        assert not used(tier)


def mapped() -> int:
    """Bytes of pages that this process has open, its own ones twice."""
    gc.collect()
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "memfd:cachestore-gpu" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def test_pages_that_could_not_be_opened_once_are_read_later(
    owner: OwnerStore, reader: ReaderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_blocks(owner, KEYS.fingerprint, BLOCKS)

    def refuse(*_: Any) -> None:
        raise OSError("too many open files")

    def read() -> set[str]:
        with reader.read(KEYS, into=room()) as reading:
            return {tier for _, tier in reading}

    with monkeypatch.context() as patch:
        patch.setattr(HostMemory, "attach", refuse)
        patch.setattr(transport, "PAUSE", 0.0)
        assert read() == {"cpu"}
    # over the session that heard of it, too
    assert [read() for _ in range(3)] == [{"gpu"}] * 3


def test_pages_of_owners_that_are_gone_stay_open_with_no_session(server: CacheStoreServer, reader: ReaderStore) -> None:
    """Also with those that nobody has used since: many read at once, and then few."""

    before = mapped()
    tier = Gpu(capacity=GRANULE, device="cpu").start(Lru())
    tier.open(lambda departures: None)
    with OwnerStore(server.address, tier, "cpu") as owner, ExitStack() as held:
        put_blocks(owner, KEYS.fingerprint, BLOCKS)
        readings = [held.enter_context(reader.read(KEYS, into=room())) for _ in range(6)]
        for reading in readings:
            check(list(reading), *["gpu"] * 8)
    tier.close()
    del owner, tier, readings, reading
    assert mapped() > before
    with reader.read(KEYS, into=room()) as reading:
        check(list(reading), *["cpu"] * 8)
    assert mapped() == before


def test_what_waits_for_others_that_tell_of_pages_ends_in_time(
    owner: OwnerStore, tier: GpuTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_blocks(owner, KEYS.fingerprint, BLOCKS)
    register, told = SessionPages.register, threading.Event()

    def slow(*arguments: Any) -> Any:
        told.set()
        time.sleep(1.5)
        return register(*arguments)

    monkeypatch.setattr(SessionPages, "register", slow)
    thread = threading.Thread(target=owner.sync_pages)
    thread.start()
    assert told.wait(SOON)
    begun = time.monotonic()
    owner.sync_pages(timeout=0.1)
    assert time.monotonic() - begun < 0.6
    thread.join()


def test_slabs_that_the_store_does_not_take_are_offered_again_at_no_cost(
    owner: OwnerStore,
    reader: ReaderStore,
    tier: GpuTier,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def exports() -> int:
        return sum(type(one) is Export for one in gc.get_objects())

    # what is logged has frames with it in which one was made
    caplog.set_level(logging.ERROR, "cachestore.service.pages.registering")
    with monkeypatch.context() as patch:
        patch.setattr(owned_pages, "MOST_SLABS", 0)
        put_blocks(owner, KEYS.fingerprint, BLOCKS)
        before = exports()
        for _ in range(5):
            owner.sync_pages()
        assert exports() == before and tiers(reader) == [("cpu", 8)]
    owner.sync_pages()
    assert tiers(reader) == [("gpu", 8)]
