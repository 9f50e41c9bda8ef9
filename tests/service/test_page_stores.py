"""Stores whose puts fill pages, and stores whose reads come from them: what is in a page is read from there."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cachestore.block import BlockSpec
from cachestore.codecs import create
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.planes import encode_plane
from cachestore.deadline import Deadline
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.pages.owner_store import OwnerStore
from cachestore.service.pages.reader_store import ReaderStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import Loaded, Purpose, PutStatus, put_blocks
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec
from cachestore.tiers.gpu_tier import GpuTier
from tests.service.paged_blocks import BLOCKS, DEFAULT, KEYS, check, opened, room, tiers, used, written
from tests.service.sessions import SOON


def spec_bytes(spec: BlockSpec) -> int:
    return sum(plane.raw_bytes for plane in spec.planes())


def test_a_reader_that_waits_finds_the_page(owner: OwnerStore, reader: ReaderStore, tier: GpuTier) -> None:
    found: list[Loaded] = []

    def wait() -> None:
        with reader.read(KEYS, into=room(), wait=SOON, purpose=Purpose.HANDOFF) as reading:
            found.extend(reading)

    with opened(owner) as put:
        thread = threading.Thread(target=wait)
        thread.start()
        written(put, 0, 1, 2)
        assert used(tier) and tiers(reader) == []
        put.commit([0, 1, 2])
        assert tiers(reader) == [("gpu", 3)]
        # while one waits others are not kept waiting
        begun = time.monotonic()
        with reader.read(KEYS, into=room()) as reading:
            check(list(reading), *["gpu"] * 3)
        assert time.monotonic() - begun < SOON / 2 and not found
        written(put, *range(3, 8))
        put.commit()
        thread.join()
    check(found, *["gpu"] * 8)
    figures = reader.stats()
    assert total(figures, "read_hits", tier="gpu", purpose="handoff") == 8
    assert total(figures, "transport_read_blocks", transport="pages") == 11
    assert total(figures, "tier_blocks", tier="cpu") == 8 == total(figures, "tier_blocks", tier="gpu")
    check_sums(figures)


def test_what_the_tier_lets_go_comes_from_the_store(owner: OwnerStore, reader: ReaderStore, tier: GpuTier) -> None:
    put_blocks(owner, KEYS.fingerprint, BLOCKS)
    gone = [entry.generation for entry in tier.catalogue(DEFAULT) if entry.key in KEYS.keys[5:]]
    tier.drop(DEFAULT, gone, "evicted")
    with reader.read(KEYS, into=room()) as reading:
        check(list(reading), *["gpu"] * 5, *["cpu"] * 3)
    # put again they are no news to the store
    assert {one.status for one in put_blocks(owner, KEYS.fingerprint, BLOCKS)} == {PutStatus.ALREADY_EXISTS}
    assert len(tier.keys(DEFAULT)) == 5


@pytest.mark.parametrize("how", ["aborted", "left", "incomplete"])
def test_what_is_not_published_takes_no_page(how: str, owner: OwnerStore, reader: ReaderStore, tier: GpuTier) -> None:
    with opened(owner) as put:
        written(put, 0, 1)
        put.write(2, 0, BLOCKS[2].data[0])
        put.commit([0])
        if how == "incomplete":
            put.commit()
            assert [one.status for one in put.answers[1:4]] == [PutStatus.STORED, PutStatus.FAILED, PutStatus.FAILED]
        if how == "aborted":
            put.abort()
    there = 2 if how == "incomplete" else 1
    assert tiers(reader) == [("gpu", there)] and len(tier.keys(DEFAULT)) == there
    one = used(tier) // there
    tier.clear(DEFAULT, Deadline.after(SOON))
    assert one and not used(tier)


def test_a_block_that_the_store_refuses_leaves_the_tier(
    owner: OwnerStore, reader: ReaderStore, tier: GpuTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(owner) as put:
        written(put, *range(8))
        with monkeypatch.context() as patch:
            patch.setattr("cachestore.service.pages.sink.STAYS", ())
            put.commit([0, 1])
        assert tiers(reader) == [("cpu", 2)]
        put.commit()
    assert tiers(reader) == [("cpu", 8)] and len(tier.keys(DEFAULT)) == 6


def test_a_put_into_a_store_that_is_elsewhere(
    serve: Callable[..., CacheStoreServer], tier: GpuTier, server: CacheStoreServer
) -> None:
    """Its blocks are in no page, and read as ever."""
    with OwnerStore(serve(shared=False).address, tier, "cpu") as owner:
        assert {one.status for one in put_blocks(owner, KEYS.fingerprint, BLOCKS)} == {PutStatus.STORED}
        assert not used(tier)
        with ReaderStore(owner.connection.address, "cpu") as reader:
            assert tiers(reader) == [("cpu", 8)]
            with reader.read(KEYS, into=room()) as reading:
                check(list(reading), *["cpu"] * 8)


@pytest.mark.parametrize("recipe", ["", "quantisation=int8,group=32"])
@pytest.mark.parametrize("coded", [False, True])
def test_pages_hold_what_readers_of_the_store_decode(
    recipe: str, coded: bool, owner: OwnerStore, reader: ReaderStore, server: CacheStoreServer
) -> None:
    spec = replace(small_spec(block_tokens=64), recipe=recipe)
    codec = codec_for(spec) or create("entropy")
    keys, blocks = random_prompt(spec, 2)
    with owner.put(keys.fingerprint, plans_of(blocks), codec=codec) as put:
        for number, block in enumerate(blocks):
            if coded:
                pairs = zip(block.data, block.planes, strict=True)
                put.write_encoded(number, 0, *(encode_plane(codec, *pair) for pair in pairs))
            else:
                put.write(number, 0, np.concatenate(block.data))
        put.commit()
    with reader.read(keys, into=[np.empty(spec_bytes(spec), np.uint8) for _ in blocks]) as reading:
        pages = list(reading)
    with RemoteStore(server.address) as other, other.read(keys) as reading:
        stored = list(reading)
    assert [tier for _, tier in pages] == ["gpu"] * 2 and [tier for _, tier in stored] == ["cpu"] * 2
    assert all(same(page.block, there.block) for page, there in zip(pages, stored, strict=True))
    assert same(pages[0].block, blocks[0]) is not bool(recipe)
