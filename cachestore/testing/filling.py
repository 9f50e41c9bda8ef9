"""What a store promises of memory that its reader gives, to be filled, and of takers."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cachestore.block import WHOLE, Block, Buffer, Half, Part
from cachestore.codecs import create
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Store
from cachestore.testing.blocks import plans_of, same, write_blocks
from cachestore.testing.suite import StoreSuite
from cachestore.testing.taking import Breaking, Keeper


class FillTests(StoreSuite):
    """Blocks are read into memory that the reader has."""

    @pytest.mark.parametrize("name", ["raw", "lz4"])
    @pytest.mark.parametrize("part", [WHOLE, Part(slots=range(1, 2)), Part(halves=frozenset({Half.V}))])
    def test_blocks_are_read_into_the_memory_given(self, store: Store, part: Part, name: str) -> None:
        keys, blocks = self.blocks(3)
        with store.put(keys.fingerprint, plans_of(blocks), codec=create(name)) as put:
            write_blocks(put, blocks)
            put.commit()
        sizes = [plane.raw_bytes for plane in blocks[0].planes if part.holds(*plane[:3])]
        tensor = torch.zeros(4, sum(sizes), dtype=torch.uint8)
        into = [row.numpy() for row in tensor[:3]]
        with store.read(keys, part=part, into=into) as reading:
            for number, (block, _) in enumerate(reading):
                assert same(block, blocks[number], part)
                assert all(np.shares_memory(data, into[number]) for data in block.data)
                assert np.array_equal(np.concatenate(block.data), into[number])
                assert not tensor[number + 1].any()
        assert number == 2

    @pytest.mark.parametrize("name", ["raw", "lz4"])
    @pytest.mark.parametrize("part", [WHOLE, Part(halves=frozenset({Half.V}))])
    @pytest.mark.parametrize("apart", [False, True])
    def test_memory_is_filled_up_to_the_first_block_that_is_not_there(
        self, store: Store, apart: bool, part: Part, name: str
    ) -> None:
        keys, blocks = self.blocks(5)
        put_all_but(3, store, keys, blocks, name)
        wanted = [[data for id, data in zip(b.planes, b.data, strict=True) if part.holds(*id[:3])] for b in blocks]
        planes = [[np.zeros_like(data) for data in each] for each in wanted]
        whole = [np.zeros(sum(data.nbytes for data in each), dtype=np.uint8) for each in wanted]
        with store.read(keys, part=part, into=planes if apart else whole) as reading:
            assert reading.fill() == 3
        for number in range(3):
            found = planes[number] if apart else [whole[number]]
            assert np.array_equal(np.concatenate(found), np.concatenate(wanted[number]))
        figures = store.stats()
        assert total(figures, "read_hits") == 3 and total(figures, "read_misses") == 2
        with store.read(keys, part=part, into=planes) as reading:
            for number, (block, _) in enumerate(reading):
                assert same(block, blocks[number], part)
                assert all(map(np.shares_memory, block.data, planes[number]))
        assert number == 2

    @pytest.mark.parametrize("name", ["raw", "lz4"])
    @pytest.mark.parametrize("part", [WHOLE, Part(halves=frozenset({Half.V})), Part(groups=range(1, 2))])
    def test_a_taker_has_the_blocks_piece_by_piece(self, store: Store, part: Part, name: str) -> None:
        keys, blocks = self.blocks(5)
        put_all_but(3, store, keys, blocks, name)
        wanted = [[data for id, data in zip(b.planes, b.data, strict=True) if part.holds(*id[:3])] for b in blocks]
        sizes = [plane.nbytes for plane in wanted[0]]
        for pieces in ([sum(sizes)], sizes, [sum(sizes[:1]), sum(sizes[1:])], [sum(sizes) - 1, 1]):
            keeper = Keeper(pieces)
            with store.read(keys, part=part) as reading:
                assert reading.fill(keeper) == 3
            for taken, planes in zip(keeper.taken[:3], wanted, strict=False):
                assert [piece.nbytes for piece in taken] == pieces
                assert np.array_equal(np.concatenate(taken), np.concatenate(planes))
        figures = store.stats()
        assert total(figures, "read_hits") == 12 and total(figures, "read_misses") == 8

    def test_what_came_before_a_taker_broke_off_holds(self, store: Store) -> None:
        keys, blocks = self.stored(store, 5)
        sizes = [plane.nbytes for plane in blocks[0].data]
        keeper = Breaking(sizes, 3)
        with store.read(keys) as reading:
            with pytest.raises(OSError, match="broken"):
                reading.fill(keeper)
            assert reading.came <= 3
        for taken, block in zip(keeper.taken[: reading.came], blocks, strict=False):
            assert np.array_equal(np.concatenate(taken), np.concatenate(block.data))
        with store.read(keys) as reading:
            assert reading.fill(Keeper(sizes)) == reading.came == 5

    def test_a_taker_of_other_blocks_gets_none(self, store: Store) -> None:
        keys, blocks = self.stored(store, 2)
        size = sum(data.nbytes for data in blocks[0].data)
        for wrong in ([size - 1], [size, 1], [1]):
            with store.read(keys) as reading:
                assert reading.fill(Keeper(wrong)) == 0
        figures = store.stats()
        assert total(figures, "read_hits") == 0 and total(figures, "read_corrupt") == total(figures, "corruptions") == 3
        frozen, keeper = Keeper([size]), Keeper([size])
        frozen.rooms[0].flags.writeable = False
        with store.read(keys) as reading, pytest.raises(InvalidArgument, match="rooms"):
            reading.fill(frozen)
        with store.read(keys, into=[np.zeros(size, dtype=np.uint8)] * 2) as reading:
            with pytest.raises(InvalidArgument, match="into"):
                reading.fill(keeper)
        with store.read(keys, provisional=True) as reading, pytest.raises(InvalidArgument, match="provisional"):
            reading.fill(keeper)
        # to others they are what they want
        assert not keeper.taken and len(self.read(store, keys)) == 2

    def test_memory_for_planes_of_another_size_stays_unfilled(self, store: Store) -> None:
        keys, blocks = self.stored(store, 2)
        right = [[np.zeros_like(data) for data in block.data] for block in blocks]
        for wrong in (right[1][:-1], [*right[1][:-1], right[1][-1][1:]]):
            with store.read(keys, into=[right[0], wrong]) as reading:
                assert reading.fill() == 1
        with store.read(keys) as reading, pytest.raises(InvalidArgument, match="into"):
            reading.fill()
        for into in ([right[0], [*right[1][:-1], right[1][-1][::2]]], [right[0]]):
            with pytest.raises(InvalidArgument, match="into"):
                store.read(keys, into=into)
        with pytest.raises(InvalidArgument, match="into"):
            store.read(keys, into=right, provisional=True)
        # to others it is what they want
        assert len(self.read(store, keys)) == 2

    def test_memory_that_a_block_does_not_fit_is_refused(self, store: Store) -> None:
        keys, blocks = self.stored(store, 2)
        size = sum(data.nbytes for data in blocks[0].data)

        def buffers(last: Buffer) -> list[Buffer]:
            return [np.zeros(size, dtype=np.uint8), last]

        frozen = np.zeros(size, dtype=np.uint8)
        frozen.flags.writeable = False
        right = np.zeros(size, dtype=np.uint8)
        for into in (
            buffers(right)[:1],
            [*buffers(right), right],
            buffers(frozen),
            buffers(right.reshape(2, -1)),
            buffers(np.zeros(2 * size, dtype=np.uint8)[::2]),
            buffers(right.view(np.int8)),
        ):
            with pytest.raises(InvalidArgument, match="into"):
                store.read(keys, into=into)
        for wrong in (size - 1, size + 1, 0):
            with store.read(keys, into=buffers(np.zeros(wrong, dtype=np.uint8))) as reading:
                blocks_read = iter(reading)
                assert same(next(blocks_read).block, blocks[0])
                # whoever wrote it may have said anything of its planes: a miss, never the reader's mistake
                assert list(blocks_read) == []
        figures = store.stats()
        assert total(figures, "read_hits") == 3 and total(figures, "read_misses") == 0
        assert total(figures, "read_corrupt") == total(figures, "corruptions") == 3
        # to others it may be what they want
        assert [same(block, wanted) for (block, _), wanted in zip(self.read(store, keys), blocks, strict=True)] == [
            True
        ] * 2


def put_all_but(left_out: int, store: Store, keys: Chain, blocks: Sequence[Block], codec: str) -> None:
    """Blocks with a gap."""
    with store.put(keys.fingerprint, plans_of(blocks), codec=create(codec)) as put:
        for number, block in enumerate(blocks):
            for plane, data in enumerate(block.data if number != left_out else ()):
                put.write(number, plane, data)
        put.commit()
