"""What a store promises to those who put."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from cachestore.block import Into
from cachestore.codecs import create
from cachestore.errors import CacheStoreError, InvalidArgument
from cachestore.metrics import total
from cachestore.store.base import Lookup, PutStatus, Store, put_blocks
from cachestore.store.spread import Spread
from cachestore.testing.blocks import plans_of, same, small_spec, write_blocks
from cachestore.testing.coded_puts import CodedPutTests


class PutTests(CodedPutTests):
    """Reserve, write, commit and abort; planes raw and coded."""

    def test_a_second_put_stores_nothing(self, store: Store) -> None:
        keys, blocks = self.stored(store, 3)
        again = put_blocks(store, keys.fingerprint, blocks)
        assert [answer.status for answer in again] == [PutStatus.ALREADY_EXISTS] * 3
        assert total(store.stats(), "put_stored") == 3
        assert store.delete(keys) == 3

    def test_what_is_not_committed_is_not_there(self, store: Store) -> None:
        keys, blocks = self.blocks(3)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            assert [answer.status for answer in put.answers] == [PutStatus.WANTED] * 3
            write_blocks(put, blocks)
            assert store.lookup(keys) == Lookup(0, (), 3)
            assert self.read(store, keys) == []
            assert put.commit([0]) is None
            assert put.answers[0].status is PutStatus.STORED and store.lookup(keys).ready == 1
        assert [answer.status for answer in put.answers[1:]] == [PutStatus.FAILED] * 2
        assert store.lookup(keys) == Lookup(1, store.lookup(keys).runs, 0)
        assert total(store.stats(), "put_aborted") == 2
        answers = put_blocks(store, keys.fingerprint, blocks)
        assert [answer.status for answer in answers] == [PutStatus.ALREADY_EXISTS, *[PutStatus.STORED] * 2]

    def test_a_put_that_fails_leaves_nothing(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with pytest.raises(ZeroDivisionError), store.put(keys.fingerprint, plans_of(blocks)) as put:
            write_blocks(put, blocks)
            raise ZeroDivisionError
        assert store.lookup(keys) == Lookup(0, (), 0)
        put.abort()
        with pytest.raises(CacheStoreError):
            put.commit()

    def test_an_incomplete_block_fails_alone(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            for plane in range(len(blocks[0].planes)):
                put.write(0, plane, blocks[0].data[plane])
            put.write(1, 3, blocks[1].data[3])
            put.commit()
            assert [answer.status for answer in put.answers] == [PutStatus.STORED, PutStatus.FAILED]
        assert store.lookup(keys) == Lookup(1, store.lookup(keys).runs, 0)

    @pytest.mark.parametrize("name", ["raw", "lz4"])
    @pytest.mark.parametrize("apart", [False, True])
    def test_many_blocks_are_written_whole_at_once(self, store: Store, apart: bool, name: str) -> None:
        keys, blocks = self.blocks(4)
        put_blocks(store, keys.fingerprint, blocks[1:2])
        data: dict[int, Into] = {n: list(b.data) if apart else np.concatenate(b.data) for n, b in enumerate(blocks)}
        with store.put(keys.fingerprint, plans_of(blocks), codec=create(name)) as put:
            put.write(3, 2, blocks[3].data[2])
            with pytest.raises(InvalidArgument, match="written before"):
                put.write_whole(data)
            del data[3]
            put.write_whole(data)
            with pytest.raises(InvalidArgument, match="written before"):
                put.write(0, 0, blocks[0].data[0])
            planes = list(blocks[3].data)
            for wrong in (planes[0], planes[1:], [*planes[:-1], planes[-1][:-1]], [*planes[:-1], planes[-1][::2]]):
                with pytest.raises(InvalidArgument, match="block 3 wants"):
                    put.write_whole({3: wrong})
            with pytest.raises(InvalidArgument, match="blocks must"):
                put.write_whole({4: planes})
            for plane in (0, 1, *range(3, len(blocks[3].planes))):
                put.write(3, plane, blocks[3].data[plane])
            put.commit()
            there, stored = PutStatus.ALREADY_EXISTS, PutStatus.STORED
            assert [answer.status for answer in put.answers] == [stored, there, stored, stored]
        assert all(map(same, (block for block, _ in self.read(store, keys)), blocks))

    @pytest.mark.parametrize("name", ["raw", "lz4"])
    def test_blocks_may_lie_in_pieces_anywhere_in_one_memory(self, store: Store, name: str) -> None:
        keys, blocks = self.blocks(3)
        put_blocks(store, keys.fingerprint, blocks[1:2])
        sizes = tuple(plane.raw_bytes for plane in blocks[0].planes)
        ends = np.cumsum(np.tile(sizes, (3, 1))).reshape(3, -1)
        given, into = (
            Spread(np.zeros(3 * sum(sizes), dtype=np.uint8), ends - np.array(sizes), sizes) for _ in range(2)
        )
        for block, rooms in zip(blocks, given, strict=True):
            for data, room in zip(block.data, rooms, strict=True):
                room[:] = data
        with store.put(keys.fingerprint, plans_of(blocks), codec=create(name)) as put:
            put.write_whole(given)
            put.commit()
        with store.read(keys, into=into) as reading:
            assert reading.fill() == 3
        assert np.array_equal(given.memory, into.memory)

    def test_a_block_has_one_writer_at_a_time(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with store.put(keys.fingerprint, plans_of(blocks)) as first:
            with store.put(keys.fingerprint, plans_of(blocks)) as second:
                assert [answer.status for answer in second.answers] == [PutStatus.IN_PROGRESS] * 2
                write_blocks(second, blocks)
            write_blocks(first, blocks)
            first.commit()
        assert all(map(same, (block for block, _ in self.read(store, keys)), blocks))

    def test_many_writers_of_one_prompt_do_the_work_once(self, store: Store) -> None:
        keys, blocks = self.blocks(4)
        with ThreadPoolExecutor(6) as threads:
            jobs = [threads.submit(put_blocks, store, keys.fingerprint, blocks) for _ in range(6)]
            answers = [answer for job in jobs for answer in job.result()]
        assert sum(answer.status is PutStatus.STORED for answer in answers) == 4
        assert store.lookup(keys).ready == 4

    def test_a_commit_may_open_a_lease_on_what_is_there(self, store: Store) -> None:
        self.stored(store, 1)
        keys, blocks = self.blocks(3)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            assert put.answers[0].status is PutStatus.ALREADY_EXISTS
            write_blocks(put, blocks)
            lease = put.commit([1], lease=5.0)
        assert lease is not None and 0 < lease.ttl <= 5.0
        assert lease.blocks == sum(run.blocks for run in lease.runs) == 2
        assert all(map(same, (block for block, _ in self.read(store, keys, lease)), blocks))

    def test_a_commit_that_asks_for_too_long_a_lease_publishes_nothing(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            write_blocks(put, blocks)
            with pytest.raises(InvalidArgument, match="a lease lasts"):
                put.commit(lease=1e6)
            assert store.lookup(keys).ready == 0
        assert {answer.status for answer in put.answers} == {PutStatus.FAILED}
        self.stored(store, 2)

    @pytest.mark.parametrize("name", ["raw", "lz4"])
    def test_planes_may_be_written_in_runs(self, store: Store, name: str) -> None:
        keys, blocks = self.blocks(3)
        flat = [np.concatenate(block.data) for block in blocks]
        half = sum(data.nbytes for data in blocks[1].data[:3])
        with store.put(keys.fingerprint, plans_of(blocks), codec=create(name)) as put:
            put.write(0, 0, flat[0])
            # the second half first, and its planes after those of another block
            put.write(1, 3, flat[1][half:])
            put.write(2, 0, flat[2])
            put.write(1, 0, flat[1][:half])
            for data in flat:
                data[:] = 0  # the bytes may be reused
            put.commit()
            assert [answer.status for answer in put.answers] == [PutStatus.STORED] * 3
        assert all(map(same, (block for block, _ in self.read(store, keys)), blocks))

    def test_a_run_that_is_no_whole_planes_is_refused_whole(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        flat = np.concatenate(blocks[0].data)
        size = blocks[0].data[0].nbytes
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            put.write(0, 2, blocks[0].data[2])
            refused = [(0, flat[:-1]), (0, np.append(flat, flat[:1])), (0, flat[: size + 1]), (0, flat[:0]), (0, flat)]
            refused += [(1, flat), (0, flat.view(np.int8)), (0, flat.reshape(2, -1)), (0, np.repeat(flat, 2)[::2])]
            for plane, data in refused:
                with pytest.raises(InvalidArgument):
                    put.write(0, plane, data)
            # of what was refused nothing was taken
            put.write(0, 0, flat[: 2 * size])
            put.write(0, 3, np.concatenate(blocks[0].data[3:]))
            put.commit()
        assert same(self.read(store, keys)[0].block, blocks[0])

    def test_a_codec_may_be_chosen_for_one_put(self, store: Store) -> None:
        keys, blocks = self.blocks(2, spec=small_spec(block_tokens=64))
        plain = [replace(block, data=[np.zeros_like(data) for data in block.data]) for block in blocks]
        for codec, smaller in ((create("raw"), False), (create("lz4"), True)):
            with store.put(keys.fingerprint, plans_of(plain), codec=codec) as put:
                write_blocks(put, plain)
                put.commit()
            assert (total(store.stats(), "tier_bytes") < sum(d.nbytes for b in plain for d in b.data)) is smaller
            assert all(map(same, (block for block, _ in self.read(store, keys)), plain))
            assert store.delete(keys) == 2

    def test_blocks_may_follow_one_that_another_put_wrote(self, store: Store) -> None:
        keys, blocks = self.blocks(4)
        put_blocks(store, keys.fingerprint, blocks[:2])
        with store.put(keys.fingerprint, plans_of(blocks[2:]), after=keys.keys[1]) as put:
            write_blocks(put, blocks[2:])
            put.commit()
        assert all(map(same, (block for block, _ in self.read(store, keys)), blocks))
        for wrong in (b"", keys.keys[0][:31], keys.keys[2], keys.keys[3]):
            with pytest.raises(InvalidArgument, match="after"):
                store.put(keys.fingerprint, plans_of(blocks[2:]), after=wrong)

    def test_what_cannot_be_written_is_refused(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            put.write(0, 0, blocks[0].data[0])
            for block, plane, data in ((0, 0, 0), (0, 1, 6), (1, 0, 0), (0, 99, 0), (-1, 0, 0)):
                with pytest.raises(InvalidArgument):
                    put.write(block, plane, blocks[0].data[data])
