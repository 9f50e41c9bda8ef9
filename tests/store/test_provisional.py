"""Reading blocks while they are written, in one process."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest

from cachestore.block import Block
from cachestore.codecs import create
from cachestore.codecs.planes import encode_plane
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.plane_table import Stored, table_of
from cachestore.seal import aligned, checksum
from cachestore.store.adopting import leave_table
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks
from cachestore.testing.provisional import FollowingTests, right

OpenStore = Callable[..., TieredStore]


class TestFollowing(FollowingTests):
    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[LocalStore]:
        tiered = open_store()
        yield tiered.namespace("a")
        assert tiered.journals.quiet


def test_only_the_same_namespace_and_fingerprint_are_followed(open_store: OpenStore) -> None:
    tiered = open_store()
    keys, blocks = random_prompt(small_spec(), 1)
    with tiered.namespace("a").put(keys.fingerprint, plans_of(blocks)) as put:
        write_blocks(put, blocks)
        for store, chain in ((tiered.namespace("b"), keys), (tiered.namespace("a"), Chain(bytes(32), keys.keys))):
            with store.read(chain, wait=0.2, provisional=True) as reading:
                assert list(reading.planes()) == [] and list(reading) == []


def test_a_block_given_up_and_written_anew_comes_again(open_store: OpenStore) -> None:
    store = open_store().namespace("a")
    keys, blocks = random_prompt(small_spec(), 2)
    _, others = random_prompt(small_spec(), 2, seed=7)
    others = [Block(wanted.key, 4, block.planes, block.data) for block, wanted in zip(others, blocks, strict=True)]
    with store.read(keys, wait=20.0, provisional=True) as reading:
        planes = reading.planes()
        with store.put(keys.fingerprint, plans_of(blocks[1:])) as longer:
            with store.put(keys.fingerprint, plans_of(others[:1])) as put:
                write_blocks(put, others[:1])
                assert [right(plane, others) for plane in islice(planes, 8)] == [True] * 8
            with store.put(keys.fingerprint, plans_of(blocks[:1])) as put:
                write_blocks(put, blocks[:1])
                assert [right(plane, blocks) for plane in islice(planes, 8)] == [True] * 8
                put.commit()
            write_blocks(longer, blocks[1:])
            longer.commit()
            assert [right(plane, blocks) for plane in planes] == [True] * 8
        assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)] == [True, True]


def followed(store: LocalStore, keys: Chain, blocks: list[Block]) -> int:
    """How many blocks a provisional read gives, whose planes all have to be right."""
    with store.read(keys, wait=20.0, provisional=True) as reading:
        assert all(right(plane, blocks) for plane in reading.planes())
        return [same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)].count(True)


def test_blocks_that_slide_while_they_are_read(open_store: OpenStore) -> None:
    """Coded blocks are moved together when they are published, under those who just copy from them."""
    tiered = open_store("64MiB", codec="lz4")
    store = tiered.namespace("a")
    for seed in range(20):
        keys, blocks = random_prompt(small_spec(), 16, seed=seed)
        for block in blocks:
            for data in block.data:
                data[:] = seed + 1

        with ThreadPoolExecutor(2) as threads, store.put(keys.fingerprint, plans_of(blocks)) as put:
            following = [threads.submit(followed, store, keys, blocks) for _ in range(2)]
            for number in range(16):
                put.write(number, 0, np.concatenate(blocks[number].data))
                put.commit([number])
            assert [future.result(20) for future in following] == [16, 16]
    figures = store.stats()
    assert total(figures, "corruptions") == 0 and total(figures, "read_hits") == 20 * 2 * 16


@pytest.mark.parametrize("lies", [False, True])
def test_what_a_writer_elsewhere_tells_of_is_provisional(open_store: OpenStore, *, lies: bool) -> None:
    """What is handed out is what was published, whatever was shown before."""
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = random_prompt(small_spec(), 1)
    block, put = blocks[0], store.put(keys.fingerprint, plans_of(blocks), owner=b"writer")
    lent = put.lend()
    with put, store.read(keys, wait=20.0, provisional=True) as reading:
        memory = lent[0].slot.bytes
        start = memory.nbytes - sum(aligned(plane.raw_bytes) for plane in block.planes)
        rows, at = [], 0
        for data in block.data:
            memory[start + at : start + at + data.nbytes] = data
            rows.append(Stored(0, at, data.nbytes, checksum(data), checksum(data)))
            at += aligned(data.nbytes)
        table = table_of(block.planes, rows)
        put.tell(0, range(0, 4), table[:4])
        with pytest.raises(InvalidArgument, match="told"):
            put.tell(0, range(3, 5), table[3:5])
        for numbers, wrong in ((range(4, 8), table[:4]), (range(4, 8), table[4:7]), (range(4, 9), table[4:])):
            with pytest.raises(InvalidArgument, match="told"):
                put.tell(0, numbers, wrong)
        planes = reading.planes()
        assert [right(plane, blocks) for plane in islice(planes, 4)] == [True] * 4
        put.tell(0, range(4, 8), table[4:])
        assert right(next(planes), blocks)
        if lies:
            block.data[0][:] = 7
            memory[start : start + block.data[0].nbytes] = 7
            table["stored_checksum"][0] = table["raw_checksum"][0] = checksum(block.data[0])
        leave_table(memory, table)
        put.adopt(0)
        put.commit()
        assert [right(plane, blocks) for plane in planes] == [True] * 3
        assert [same(found, block) for found, _ in reading] == [True]
    with tiered.index.changed:
        tiered.index.leave(lent[0])
    tiered.disown(store.namespace, b"writer")


def test_a_plane_that_does_not_hold_is_not_shown(open_store: OpenStore) -> None:
    store = open_store().namespace("a")
    keys, blocks = random_prompt(small_spec(), 1)
    block = blocks[0]
    for data in block.data:
        data[:] = 3
    with store.put(keys.fingerprint, plans_of(blocks)) as put, store.read(keys, wait=20.0, provisional=True) as reading:
        codec = create("lz4")
        for number, data in enumerate(block.data):
            encoded = encode_plane(codec, data, block.planes[number])
            put.write_encoded(0, number, encoded._replace(raw_checksum=encoded.raw_checksum ^ (number == 2)))
        planes = reading.planes()
        early = [next(planes)]
        put.commit()
        assert [plane.plane for plane in [*early, *planes]] == [0, 1, 3, 4, 5, 6, 7]
        assert list(reading) == []
    figures = store.stats()
    assert total(figures, "corruptions") == 1 and total(figures, "read_corrupt") == 1
