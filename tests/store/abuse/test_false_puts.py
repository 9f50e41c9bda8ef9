"""Puts that lie: of their sizes, their planes, what decodes to what."""

from typing import Any

import lz4.block
import numpy as np
import pytest

from cachestore.block import Half, PlaneId
from cachestore.codecs import create
from cachestore.codecs.base import Encoded
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain, chain
from cachestore.seal import checksum
from cachestore.store.base import BlockPlan, put_blocks
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, random_tokens, same, small_spec
from tests.store.abuse.values import SPEC, read


def test_writes_that_do_not_fit_the_plan_are_refused_and_leave_nothing(tiered: TieredStore, store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 2)
    data = blocks[0].data[0]
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        wrong: list[tuple[int, int, Any]] = [
            (0, 0, data[:-1]), (0, 0, np.concatenate([data, data[:1]])), (0, 0, data[:0]), (2, 0, data), (-1, 0, data),
            (0, 8, data), (0, -1, data), (0, 0, data.view(np.float32)), (0, 0, np.repeat(data, 2)[::2]),
            (0, 0, data.reshape(2, -1)), (0, 7, np.concatenate([data, data])), (1 << 40, 0, data),
        ]  # fmt: skip
        for block, plane, given in wrong:
            with pytest.raises(InvalidArgument):
                put.write(block, plane, given)
        put.write(0, 0, data)
        with pytest.raises(InvalidArgument, match="written before"):
            put.write(0, 0, data)
        with pytest.raises(InvalidArgument, match="blocks must lie in"):
            put.commit([2])
        put.commit()
        assert [str(answer.status) for answer in put.answers] == ["failed"] * 2
    assert store.lookup(keys).ready == 0 == tiered.memory.usage().used


PLANE = PlaneId(0, Half.K, 0, 4, 1 << 20)


def coded(codec: str, stored: bytes, raw: bytes, claimed: int = PLANE.raw_bytes) -> Encoded:
    data = np.frombuffer(stored, dtype=np.uint8)
    return Encoded(create(codec).id, data, claimed, checksum(data), checksum(np.frombuffer(raw, dtype=np.uint8)))


ZEROS = bytes(1 << 20)

BOMB = lz4.block.compress(bytes(255 << 20), store_size=False)
"""A mebibyte that lz4 makes 255 of."""


@pytest.mark.parametrize(
    "lie",
    [
        coded("lz4", BOMB, ZEROS),
        coded("lz4", BOMB, ZEROS, 255 << 20),
        coded("lz4", lz4.block.compress(ZEROS, store_size=False), ZEROS, 1 << 62),
        coded("raw", ZEROS[1:], ZEROS),
        coded("raw", ZEROS + b"0", ZEROS),
        Encoded(200, np.zeros(8, np.uint8), PLANE.raw_bytes, checksum(np.zeros(8, np.uint8)), 0),
    ],
    ids=["bomb", "bomb that says so", "huge claim", "too short", "too long", "unknown codec"],
)
def test_an_encoded_plane_that_lies_is_never_stored(tiered: TieredStore, lie: Encoded) -> None:
    # memory for one block of a mebibyte is more than this store has: one of its own, of the gateway alone
    store = tiered.namespace("a")
    plan = BlockPlan(b"k" * 32, 1, (PLANE._replace(raw_bytes=1024),))
    with store.put(b"f" * 32, [plan]) as put:
        with pytest.raises(InvalidArgument):
            put.write_encoded(0, 0, lie)
        put.commit()
        assert put.answers[0].status == "failed"
    assert tiered.memory.usage().used == 0


@pytest.mark.parametrize("raw", [ZEROS[:512], ZEROS[:1023], ZEROS[:1025], ZEROS[:900] + b"x" * 124])
def test_a_plane_that_decodes_to_something_else_is_a_miss(tiered: TieredStore, store: LocalStore, raw: bytes) -> None:
    claimed, packed = np.zeros(1024, np.uint8), lz4.block.compress(raw, store_size=False)
    data = np.frombuffer(packed, dtype=np.uint8)
    lie = Encoded(create("lz4").id, data, 1024, checksum(data), checksum(claimed))
    with store.put(b"f" * 32, [BlockPlan(b"k" * 32, 1, (PLANE._replace(raw_bytes=1024),))]) as put:
        put.write_encoded(0, 0, lie)
        put.commit()
    # with its copies, which lie as it does
    assert tiered.settle() and read(store, Chain(b"f" * 32, (b"k" * 32,))) == []
    assert store.lookup(Chain(b"f" * 32, (b"k" * 32,))).ready == 0


@pytest.mark.parametrize(
    "plane",
    [
        (0, Half.K, 0, 4, 1 << 63), (0, Half.K, 0, 4, 0), (0, Half.K, 0, 4, -1), (0, Half.K, 0, 0, 8),
        (0, Half.K, 0, 256, 8), (1 << 16, Half.K, 0, 4, 8), (-1, Half.K, 0, 4, 8), (0, 7, 0, 4, 8),
    ],
)  # fmt: skip
def test_a_plane_that_cannot_be_is_refused(tiered: TieredStore, store: LocalStore, plane: Any) -> None:
    with pytest.raises(InvalidArgument):
        store.put(b"f" * 32, [BlockPlan(b"k" * 32, 1, (PlaneId(*plane),))])
    assert tiered.memory.usage().used == 0 == store.puts_open


def test_a_block_of_another_model_keeps_the_first(store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    other = chain(small_spec("float16"), random_tokens(8, 1)).fingerprint
    assert {str(answer.status) for answer in put_blocks(store, other, blocks)} == {"kept_first"}
    assert store.lookup(Chain(other, keys.keys)).ready == 0 and read(store, Chain(other, keys.keys)) == []
    assert all(map(same, read(store, keys), blocks))
