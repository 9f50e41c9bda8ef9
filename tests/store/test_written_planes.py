"""The bytes of a put: in any order and of any size they make the same block, and what is not the plane is refused."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cachestore.block import Block, Half, PlaneId
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.planes import encode_plane
from cachestore.codecs.raw import Raw
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.seal import ALIGN, PARENT_BYTES, Header
from cachestore.store.tiered import TieredStore
from cachestore.testing import (
    plans_of,
    random_planes,
    random_prompt,
    same,
    small_spec,
    write_blocks,
)
from tests.store.small_blocks import blocks_of, read

Opener = Callable[..., TieredStore]


def test_planes_may_come_in_any_order_and_their_memory_be_used_again(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(2)
    order = np.random.default_rng(0).permutation(len(blocks[0].planes))
    buffer = np.empty(4096, dtype=np.uint8)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        for plane in order:
            for index, block in enumerate(blocks):
                view = buffer[: block.data[plane].nbytes]
                view[:] = block.data[plane]
                put.write(index, int(plane), view)
        buffer[:] = 0
        put.commit()
    assert all(map(same, read(store, keys), blocks))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data.view(np.float32),
        lambda data: data.reshape(2, -1),
        lambda data: np.repeat(data, 2)[::2],
        lambda data: np.concatenate([data, data[:1]]),
        lambda data: data.view(np.bool_),
        lambda data: data[:0],
    ],
)
def test_bytes_that_are_not_the_plane_are_refused_and_the_put_goes_on(open_store: Opener, spoil: Any) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        with pytest.raises(InvalidArgument, match="plane 0 of block 0"):
            put.write(0, 0, spoil(blocks[0].data[0]))
        write_blocks(put, blocks)
        with pytest.raises(InvalidArgument):
            put.commit([1])
        with pytest.raises(InvalidArgument):
            put.commit([-1])
        put.commit()
    assert same(read(store, keys)[0], blocks[0])


def test_a_checksum_that_does_not_hold_fails_the_block(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(2)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        for index, block in enumerate(blocks):
            for plane, data in enumerate(block.data):
                encoded = encode_plane(Raw(), data, block.planes[plane])
                if index == plane == 1:
                    encoded = encoded._replace(stored_checksum=encoded.stored_checksum ^ 1)
                put.write_encoded(index, plane, encoded)
        put.commit()
    assert [answer.status for answer in put.answers] == ["stored", "failed"]
    assert store.lookup(keys) == (1, store.lookup(keys).runs, 0)


def test_an_encoding_longer_than_its_plane_is_refused(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        encoded = encode_plane(Raw(), blocks[0].data[0], blocks[0].planes[0])
        for wrong in (
            encoded._replace(stored=np.zeros(encoded.raw_bytes + 1, dtype=np.uint8)),
            encoded._replace(raw_bytes=encoded.raw_bytes - 1),
        ):
            with pytest.raises(InvalidArgument):
                put.write_encoded(0, 0, wrong)


def sealed(tiered: TieredStore, store: Any, key: bytes) -> Header:
    entry = tiered.index.get(Name(store.namespace, key))
    assert entry is not None
    return Header.parse(entry.slot.bytes)


def test_the_header_says_what_came_before_and_how_long_it_lasts(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(4)
    before = time.time()
    for start, after, ttl in ((0, None, None), (2, keys.keys[1], 60.0)):
        with store.put(keys.fingerprint, plans_of(blocks[start : start + 2]), after=after, ttl=ttl) as put:
            write_blocks(put, blocks[start : start + 2])
            put.commit()
    headers = [sealed(tiered, store, key) for key in keys.keys]
    parents = [bytes(PARENT_BYTES), *(key[:PARENT_BYTES] for key in keys.keys[:3])]
    assert [header.parent for header in headers] == parents
    assert [header.expires for header in headers[:2]] == [0, 0] and not any(header.flags for header in headers)
    for header in headers[2:]:
        assert before + 60.0 <= header.expires / 1000 + 1e-3 <= time.time() + 60.0 + 1e-2
    # and so the block in front is no leaf, and does not leave before those behind it
    entries = [tiered.index.get(Name(store.namespace, key)) for key in keys.keys]
    assert [entry and entry.parent for entry in entries] == [None, *keys.keys[:3]]


@pytest.mark.parametrize("name", ["raw", "lz4"])
def test_runs_and_planes_of_any_size_make_the_same_block(open_store: Opener, name: str) -> None:
    """Planes that are no multiple of their alignment, written one by one, in runs, and in one piece."""
    tiered = open_store(codec=name)
    store = tiered.namespace("a")
    planes = tuple(PlaneId(slot, Half.K, 0, 1, size) for slot, size in enumerate((64, 1, 63, 65, 128, 7, 300_000, 64)))
    data = random_planes(planes, 5)
    flat = np.concatenate(data)
    ways = [[*range(8)], [0, 3, 4], [0], [7, 2, 0], [6, 0]]
    blocks = [Block(bytes([number]) * 32, 3, planes, data) for number in range(len(ways))]
    starts = np.cumsum([0, *(plane.raw_bytes for plane in planes)])
    with store.put(bytes(32), plans_of(blocks)) as put:
        for number, firsts in enumerate(ways):
            ends = [min([other for other in firsts if other > first], default=8) for first in firsts]
            for first, end in zip(firsts, ends, strict=True):
                put.write(number, first, flat[starts[first] : starts[end]])
        put.commit()
    keys = Chain(bytes(32), tuple(block.key for block in blocks))
    assert all(map(same, read(store, keys), blocks)) and len(read(store, keys)) == len(ways)
    for key in keys.keys:
        header = sealed(tiered, store, key)
        assert not any(row.offset % ALIGN for row in header.stored(range(8)))


def test_a_lossy_put_hands_out_what_decoding_gives(open_store: Opener) -> None:
    store = open_store().namespace("a")
    spec = replace(small_spec(), recipe="quantisation=int8,group=32")
    keys, blocks = random_prompt(spec, 2)
    codec = codec_for(spec)
    assert codec is not None and codec.lossy
    with store.put(keys.fingerprint, plans_of(blocks), codec=codec) as put:
        write_blocks(put, blocks)
        put.commit()
    loaded = read(store, keys)
    assert len(loaded) == 2 and total(store.stats(), "corruptions") == 0
    assert not any(map(same, loaded, blocks))
    for block, wanted in zip(loaded, blocks, strict=True):
        for data, raw in zip(block.data, wanted.data, strict=True):
            assert np.allclose(data.view(np.float32), raw.view(np.float32), atol=0.05)
