"""What a store promises to those who put one block together."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from cachestore.block import Block, BlockSpec, Half, Part, PlaneId
from cachestore.block import Slot as KvSlot
from cachestore.codecs import create
from cachestore.errors import InvalidArgument
from cachestore.metrics import total
from cachestore.store.base import BlockPlan, Durability, Lookup, Put, PutStatus, Store, put_blocks
from cachestore.testing.blocks import plans_of, same
from cachestore.testing.suite import StoreSuite

EIGHT = BlockSpec(
    "test/eight",
    "0" * 40,
    "float32",
    (KvSlot(8, 8, 8), KvSlot(16, 8, 0), KvSlot(8, 4, 16)),
    head_groups=8,
    block_tokens=4,
)
"""Three slots, one of them of keys alone, and eight head groups."""

WAITED = 10.0


def write_groups(put: Put, blocks: Sequence[Block], groups: range, *, at_once: bool = False) -> None:
    """Writes the planes of these head groups of all blocks that `put` wants."""
    for number, block in enumerate(blocks):
        own = [data for plane, data in zip(block.planes, block.data, strict=True) if plane.group in groups]
        if put.answers[number].status is not PutStatus.WANTED:
            continue
        if at_once:
            put.write(number, 0, np.concatenate(own))
            continue
        for plane, data in enumerate(own):
            put.write(number, plane, data)


def ranks(count: int, groups: int = 8) -> list[range]:
    """The head groups of each of `count` ranks."""
    size = groups // count
    return [range(first, first + size) for first in range(0, groups, size)]


def put_groups(store: Store, fingerprint: bytes, blocks: Sequence[Block], groups: range) -> list[PutStatus]:
    """What one rank does; what became of each block."""
    with store.put(fingerprint, plans_of(blocks), groups=groups) as put:
        write_groups(put, blocks, groups, at_once=True)
        put.commit()
        return [answer.status for answer in put.answers]


class JointPutTests(StoreSuite):
    """Blocks that several puts write together. Subclasses give the fixture `store`."""

    spec = EIGHT

    @pytest.mark.parametrize("writers", [1, 2, 4, 8])
    @pytest.mark.parametrize("readers", [1, 2, 4])
    def test_ranks_write_and_others_read(self, store: Store, writers: int, readers: int) -> None:
        keys, blocks = self.blocks(2, seed=10 * writers + readers)
        with ThreadPoolExecutor(writers) as threads:
            jobs = [threads.submit(put_groups, store, keys.fingerprint, blocks, groups) for groups in ranks(writers)]
            answers = [status for job in jobs for status in job.result()]
        assert answers.count(PutStatus.STORED) == 2 == total(store.stats(), "put_stored")
        assert set(answers) <= {PutStatus.STORED, PutStatus.IN_PROGRESS}
        for groups in ranks(readers):
            part = Part(groups=groups)
            with store.read(keys, part=part) as reading:
                found = [block for block, _ in reading]
            assert len(found) == 2 and all(
                same(block, wanted, part) for block, wanted in zip(found, blocks, strict=True)
            )
        assert all(map(same, (block for block, _ in self.read(store, keys)), blocks))

    def test_it_is_not_there_before_the_last_share(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        plans = plans_of(blocks)
        first, second = ranks(2)
        with (
            store.put(keys.fingerprint, plans, groups=first) as one,
            store.put(keys.fingerprint, plans, groups=second) as other,
        ):
            for put, groups in ((one, first), (other, second)):
                assert [answer.status for answer in put.answers] == [PutStatus.WANTED] * 2
                write_groups(put, blocks, groups)
            one.commit()
            assert [answer.status for answer in one.answers] == [PutStatus.IN_PROGRESS] * 2
            assert store.lookup(keys) == Lookup(0, (), 2) and self.read(store, keys) == []
            other.commit([0])
            assert other.answers[0].status is PutStatus.STORED and store.lookup(keys).ready == 1
            lease = other.commit(lease=5.0)
            assert lease is not None and lease.blocks == 2
        assert all(map(same, (block for block, _ in self.read(store, keys, lease)), blocks))
        figures = store.stats()
        assert [total(figures, name) for name in ("put_blocks", "put_stored", "put_in_progress")] == [4, 2, 2]
        assert total(figures, "blocks_incomplete") == 0

    def test_whoever_has_committed_may_leave(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        for number, groups in enumerate(ranks(4)):
            wanted = PutStatus.STORED if number == 3 else PutStatus.IN_PROGRESS
            assert put_groups(store, keys.fingerprint, blocks, groups) == [wanted]
        assert same(self.read(store, keys)[0].block, blocks[0])

    def test_a_reader_waits_for_all_shares(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        first, second = ranks(2)
        with ThreadPoolExecutor(1) as threads:
            put_groups(store, keys.fingerprint, blocks, first)
            waiting = threads.submit(self.read, store, keys, wait=WAITED)
            put_groups(store, keys.fingerprint, blocks, second)
            (found,) = waiting.result()
        assert same(found.block, blocks[0])

    def test_a_group_has_one_writer(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        plans = plans_of(blocks)
        with store.put(keys.fingerprint, plans, groups=range(2, 4)) as put:
            for groups in (range(2, 4), range(0, 8), range(3, 5), range(0, 3), range(3, 4), None):
                with store.put(keys.fingerprint, plans, groups=groups) as other:
                    assert other.answers[0].status is PutStatus.IN_PROGRESS, groups
            # those of another number of ranks fill the rest
            for groups in (range(0, 2), range(4, 8)):
                assert put_groups(store, keys.fingerprint, blocks, groups) == [PutStatus.IN_PROGRESS]
            write_groups(put, blocks, range(2, 4))
            put.commit()
            assert put.answers[0].status is PutStatus.STORED
        assert put_groups(store, keys.fingerprint, blocks, range(0, 2)) == [PutStatus.ALREADY_EXISTS]
        assert same(self.read(store, keys)[0].block, blocks[0])

    def test_a_writer_of_whole_blocks_that_was_there_first_has_it_alone(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with store.put(keys.fingerprint, plans_of(blocks[:1])) as whole:
            assert put_groups(store, keys.fingerprint, blocks, range(0, 4)) == [PutStatus.IN_PROGRESS] * 2
            whole.write(0, 0, np.concatenate(blocks[0].data))
            whole.commit()
        expected = [PutStatus.ALREADY_EXISTS, PutStatus.STORED]
        assert put_groups(store, keys.fingerprint, blocks, range(4, 8)) == expected
        assert all(map(same, (block for block, _ in self.read(store, keys)), blocks))

    def test_one_that_gives_up_fails_it_for_all(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        first, second, third = range(0, 2), range(2, 4), range(4, 8)
        plans = plans_of(blocks)
        assert put_groups(store, keys.fingerprint, blocks, first) == [PutStatus.IN_PROGRESS]
        with store.put(keys.fingerprint, plans, groups=second) as writing:
            with store.put(keys.fingerprint, plans, groups=third) as leaving:
                write_groups(leaving, blocks, third)
            assert store.lookup(keys) == Lookup(0, (), 0)
            # what it writes on comes to nothing, and takes nothing from who begins anew
            with store.put(keys.fingerprint, plans, groups=third) as again:
                assert [answer.status for answer in again.answers] == [PutStatus.WANTED]
                write_groups(writing, blocks, second)
                writing.commit()
                assert writing.answers[0].status is PutStatus.FAILED
                write_groups(again, blocks, third)
                again.commit()
                assert again.answers[0].status is PutStatus.IN_PROGRESS
        assert put_groups(store, keys.fingerprint, blocks, second) == [PutStatus.IN_PROGRESS]
        assert put_groups(store, keys.fingerprint, blocks, first) == [PutStatus.STORED]
        assert same(self.read(store, keys)[0].block, blocks[0])
        figures = store.stats()
        assert [total(figures, name) for name in ("put_failed", "put_aborted", "blocks_incomplete")] == [1, 1, 1]

    def test_an_incomplete_share_fails_it_for_all(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        plans = plans_of(blocks)
        with (
            store.put(keys.fingerprint, plans, groups=range(0, 4)) as one,
            store.put(keys.fingerprint, plans, groups=range(4, 8)) as other,
        ):
            one.write(0, 1, blocks[0].data[1])
            one.commit()
            write_groups(other, blocks, range(4, 8))
            other.commit()
            assert [put.answers[0].status for put in (one, other)] == [PutStatus.FAILED] * 2
        assert store.lookup(keys) == Lookup(0, (), 0)

    def test_what_is_missing_is_not_waited_for_beyond_the_deadline(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        with store.put(keys.fingerprint, plans_of(blocks), groups=range(0, 4), timeout=0.3) as put:
            write_groups(put, blocks, range(0, 4))
            put.commit()
            assert put.answers[0].status is PutStatus.IN_PROGRESS
        until = time.monotonic() + WAITED
        while store.lookup(keys).writing:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert total(store.stats(), "blocks_incomplete") == 1
        put_blocks(store, keys.fingerprint, blocks)
        assert same(self.read(store, keys)[0].block, blocks[0])

    def test_each_chooses_its_codec(self, store: Store) -> None:
        keys, blocks = self.blocks(2, spec=replace(EIGHT, block_tokens=64))
        plain = [replace(block, data=[np.zeros_like(data) for data in block.data]) for block in blocks]
        before = total(store.stats(), "tier_bytes")
        for groups, codec in zip(ranks(4), ("lz4", "raw", "lz4", "raw"), strict=True):
            with store.put(keys.fingerprint, plans_of(plain), codec=create(codec), groups=groups) as put:
                write_groups(put, plain, groups)
                put.commit()
        assert all(map(same, (block for block, _ in self.read(store, keys)), plain))
        assert total(store.stats(), "tier_bytes") - before < sum(d.nbytes for b in plain for d in b.data)

    def test_blocks_planned_otherwise_are_not_joined(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        (plan,) = plans_of(blocks)
        planes = (*plan.planes[:-1], PlaneId(7, Half.V, 7, 4, 64))
        with store.put(keys.fingerprint, [plan], groups=range(0, 4)):
            for other in (BlockPlan(plan.key, 3, plan.planes), BlockPlan(plan.key, 4, planes)):
                with store.put(keys.fingerprint, [other], groups=range(4, 8)) as put:
                    assert put.answers[0].status is PutStatus.IN_PROGRESS

    def test_groups_that_cannot_be_meant_are_refused(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        for groups in (range(0), range(0, 8, 2), range(-1, 2), range(4, 9), range(8, 9)):
            with pytest.raises(InvalidArgument, match="groups"):
                store.put(keys.fingerprint, plans_of(blocks), groups=groups)
        with pytest.raises(InvalidArgument, match="durabl"):
            store.put(keys.fingerprint, plans_of(blocks), groups=range(0, 4), durability=Durability.DURABLE)
        with store.put(keys.fingerprint, plans_of(blocks), groups=range(0, 4)) as put:
            own = sum(plane.group < 4 for plane in blocks[0].planes)
            for plane, data in ((own, blocks[0].data[0]), (0, np.concatenate(blocks[0].data))):
                with pytest.raises(InvalidArgument):
                    put.write(0, plane, data)
        assert store.lookup(keys).writing == 0
