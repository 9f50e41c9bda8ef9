"""What a store promises to those who read blocks while they are written."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest

from cachestore.block import WHOLE, Block, Half, Part
from cachestore.codecs import create
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Loaded, Provisional, PutStatus, Store, put_blocks
from cachestore.testing.blocks import plans_of, same, write_blocks
from cachestore.testing.suite import StoreSuite


def right(plane: Provisional, blocks: Sequence[Block]) -> bool:
    """Whether this plane is what was put."""
    block = blocks[plane.block]
    return plane.id == block.planes[plane.plane] and np.array_equal(plane.data, block.data[plane.plane])


class ProvisionalTests(StoreSuite):
    """What holds whether planes come early or not."""

    def read_provisionally(self, store: Store, keys: Chain, wait: float) -> tuple[list[Provisional], list[Loaded]]:
        """All planes that come before their blocks are published, then the blocks."""
        with store.read(keys, wait=wait, provisional=True) as reading:
            return list(reading.planes()), list(reading)

    def test_a_reader_who_comes_first_gets_the_blocks(self, store: Store) -> None:
        keys, blocks = self.blocks(3)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(self.read_provisionally, store, keys, 20.0)
            with store.put(keys.fingerprint, plans_of(blocks)) as put:
                write_blocks(put, blocks)
                put.commit()
            planes, loaded = waiting.result(20)
        assert all(right(plane, blocks) for plane in planes)
        assert len(loaded) == 3 and all(map(same, (block for block, _ in loaded), blocks))
        assert total(store.stats(), "read_hits") == total(store.stats(), "read_blocks") == 3

    def test_what_is_there_is_not_waited_for(self, store: Store) -> None:
        keys, blocks = self.stored(store, 3)
        begun = time.monotonic()
        planes, loaded = self.read_provisionally(store, keys, 20.0)
        assert time.monotonic() - begun < 5
        assert planes == [] and all(map(same, (block for block, _ in loaded), blocks)) and len(loaded) == 3

    def test_provisional_waiting_ends(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        begun = time.monotonic()
        assert self.read_provisionally(store, keys, 0.2) == ([], [])
        with store.put(keys.fingerprint, plans_of(blocks)):
            assert self.read_provisionally(store, keys, 0.2) == ([], [])
        assert 0.4 <= time.monotonic() - begun < 5
        assert total(store.stats(), "read_misses") == 4

    def test_a_read_that_is_not_provisional_has_no_planes(self, store: Store) -> None:
        keys, _ = self.stored(store, 1)
        with store.read(keys) as reading:
            assert list(reading.planes()) == [] and len(list(reading)) == 1

    def test_a_provisional_read_takes_no_lease_over(self, store: Store) -> None:
        keys, _ = self.stored(store, 1)
        lease = store.lease(keys)
        with pytest.raises(InvalidArgument, match="provisional"):
            store.read(keys, lease=lease, provisional=True)
        store.release(lease)

    def test_a_provisional_read_left_early_counts_nothing(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            with store.read(keys, wait=20.0, provisional=True):
                pass
            write_blocks(put, blocks)
            put.commit()
        assert total(store.stats(), "read_blocks") == total(store.stats(), "leases_open") == 0


class FollowingTests(StoreSuite):
    """What holds where a reader gets planes before they are published.

    The last write of a put may come as late as the commit: its writer gathers.
    """

    @pytest.mark.parametrize("codec", ["raw", "lz4"])
    def test_planes_come_as_they_were_written_and_count_nothing(self, store: Store, codec: str) -> None:
        keys, blocks = self.blocks(3)
        written = [(block, plane) for plane in range(8) for block in range(3)]
        with (
            store.put(keys.fingerprint, plans_of(blocks), codec=create(codec)) as put,
            store.read(keys, wait=20.0, provisional=True) as reading,
        ):
            write_blocks(put, blocks)
            planes = reading.planes()
            early = list(islice(planes, len(written) - 1))
            figures = store.stats()
            assert store.lookup(keys).ready == 0
            assert total(figures, "read_blocks") == total(figures, "leases_open") == 0
            put.commit()
            came = early + list(planes)
            assert [(plane.block, plane.plane) for plane in came] == written
            assert all(right(plane, blocks) for plane in came)
            loaded = list(reading)
            assert len(loaded) == 3 and all(map(same, (block for block, _ in loaded), blocks))
            # they are handed out where they came
            for plane in came:
                assert np.shares_memory(plane.data, loaded[plane.block].block.data[plane.plane])
        assert total(store.stats(), "read_hits") == total(store.stats(), "read_blocks") == 3

    def test_a_slot_written_at_once_comes_as_its_planes(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with (
            store.put(keys.fingerprint, plans_of(blocks)) as put,
            store.read(keys, wait=20.0, provisional=True) as reading,
        ):
            for first in (4, 0):
                for number, block in enumerate(blocks):
                    put.write(number, first, np.concatenate(block.data[first : first + 4]))
            planes = reading.planes()
            order = [(plane.block, plane.plane) for plane in islice(planes, 12)]
            assert order == [(block, plane) for block in (0, 1) for plane in range(4, 8)] + [
                (0, 0),
                (0, 1),
                (0, 2),
                (0, 3),
            ]
            put.commit()
            assert [(plane.block, plane.plane) for plane in planes] == [(1, plane) for plane in range(4)]
            assert all(map(same, (block for block, _ in reading), blocks))

    @pytest.mark.parametrize("part", [WHOLE, Part(slots=range(1, 2)), Part(halves=frozenset({Half.V}))])
    @pytest.mark.parametrize("codec", ["raw", "lz4"])
    def test_the_planes_of_a_part_come_into_the_memory_given(self, store: Store, part: Part, codec: str) -> None:
        keys, blocks = self.blocks(2)
        wanted = [number for number, plane in enumerate(blocks[0].planes) if part.holds(*plane[:3])]
        size = sum(blocks[0].planes[number].raw_bytes for number in wanted)
        into = [np.zeros(size, dtype=np.uint8) for _ in blocks]
        with (
            store.put(keys.fingerprint, plans_of(blocks), codec=create(codec)) as put,
            store.read(keys, part=part, into=into, wait=20.0, provisional=True) as reading,
        ):
            write_blocks(put, blocks)
            planes = reading.planes()
            came = [next(planes)]
            put.commit([1])
            came += islice(planes, 2 * len(wanted) - 2)
            put.commit()
            came += planes
            assert [(plane.plane, plane.block) for plane in came] == [(n, b) for n in wanted for b in (0, 1)]
            assert all(right(p, blocks) and np.shares_memory(p.data, into[p.block]) for p in came)
            for number, (block, _) in enumerate(reading):
                assert same(block, blocks[number], part)
                assert np.array_equal(np.concatenate(block.data), into[number])
        assert number == 1

    def test_a_block_of_another_size_than_its_memory_is_a_miss(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with (
            store.put(keys.fingerprint, plans_of(blocks)) as put,
            store.read(keys, into=[np.zeros(1, dtype=np.uint8)] * 2, wait=20.0, provisional=True) as reading,
        ):
            write_blocks(put, blocks)
            planes = reading.planes()
            came = [next(planes)]
            put.commit()
            assert all(right(plane, blocks) for plane in [*came, *planes])
            assert list(reading) == []

    def test_an_abort_ends_the_planes_and_leaves_nothing(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with store.read(keys, wait=20.0, provisional=True) as reading:
            with store.put(keys.fingerprint, plans_of(blocks)) as put:
                write_blocks(put, blocks)
                planes = reading.planes()
                assert all(right(plane, blocks) for plane in islice(planes, 5))
            begun = time.monotonic()
            assert all(right(plane, blocks) for plane in planes)
            assert list(reading) == [] and time.monotonic() - begun < 5
        assert total(store.stats(), "read_misses") == total(store.stats(), "read_blocks") == 2

    def test_blocks_that_are_not_committed_are_void(self, store: Store) -> None:
        keys, blocks = self.blocks(3)
        with store.read(keys, wait=20.0, provisional=True) as reading:
            with store.put(keys.fingerprint, plans_of(blocks)) as put:
                write_blocks(put, blocks)
                planes = reading.planes()
                early = list(islice(planes, 20))
                put.commit([0, 1])
            assert all(right(plane, blocks) for plane in [*early, *planes])
            assert all(map(same, (block for block, _ in reading), blocks[:2]))
        figures = store.stats()
        assert total(figures, "read_hits") == 2 and total(figures, "read_misses") == 1

    def test_blocks_that_are_there_are_not_followed(self, store: Store) -> None:
        keys, blocks = self.blocks(4)
        put_blocks(store, keys.fingerprint, blocks[1:2])
        with (
            store.put(keys.fingerprint, plans_of(blocks)) as put,
            store.read(keys, wait=20.0, provisional=True) as reading,
        ):
            assert put.answers[1].status is PutStatus.ALREADY_EXISTS
            write_blocks(put, blocks)
            planes = reading.planes()
            early = list(islice(planes, 23))
            put.commit()
            came = [*early, *planes]
            assert {plane.block for plane in came} == {0, 2, 3} and len(came) == 24
            assert all(right(plane, blocks) for plane in came)
            assert all(map(same, (block for block, _ in reading), blocks))
        assert total(store.stats(), "read_hits") == 4

    def test_two_puts_and_two_readers(self, store: Store) -> None:
        keys, blocks = self.blocks(4)
        came: list[list[Provisional]] = [[], []]

        def follow(planes: list[Provisional]) -> bool:
            with store.read(keys, wait=20.0, provisional=True) as reading:
                for plane in reading.planes():
                    planes.append(plane)
                whole = all(right(plane, blocks) for plane in planes) and len(planes) == 32
                return whole and [same(b, wanted) for (b, _), wanted in zip(reading, blocks, strict=True)] == [True] * 4

        with (
            store.put(keys.fingerprint, plans_of(blocks[:2])) as first,
            store.put(keys.fingerprint, plans_of(blocks[2:])) as second,
            ThreadPoolExecutor(2) as threads,
        ):
            following = [threads.submit(follow, planes) for planes in came]
            for plane in range(8):
                for number in range(2):
                    second.write(number, plane, blocks[2 + number].data[plane])
                    first.write(number, plane, blocks[number].data[plane])
            # all but the last write of each; what is published before it was followed comes as a block alone
            until = time.monotonic() + 10
            while min(map(len, came)) < 30 and time.monotonic() < until:
                time.sleep(0.01)
            second.commit()
            first.commit()
            assert [future.result(20) for future in following] == [True, True]

    def test_the_deadline_ends_planes_and_blocks(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        begun = time.monotonic()
        with (
            store.put(keys.fingerprint, plans_of(blocks)),
            store.read(keys, wait=20.0, provisional=True, timeout=0.3) as reading,
        ):
            assert list(reading.planes()) == [] and list(reading) == []
            assert time.monotonic() - begun < 1.3
        assert total(store.stats(), "read_blocks") == 0
