"""What a store promises to those who look up, lease, read and remove."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachestore.block import Block, Half, OpaqueSpec, Part
from cachestore.errors import InvalidArgument, LeaseExpired
from cachestore.hashing import Chain, opaque_chain, tail_key
from cachestore.metrics import total
from cachestore.store.base import BlockPlan, Lease, Lookup, Purpose, PutStatus, Store, Verdict, put_blocks
from cachestore.testing.blocks import plans_of, random_planes, same, small_spec, write_blocks
from cachestore.testing.suite import StoreSuite


class ReadTests(StoreSuite):
    """Lookup, lease, read, delete and clear."""

    def test_nothing_is_found_in_an_empty_store(self, store: Store) -> None:
        keys, _ = self.blocks(3)
        assert store.lookup(keys) == Lookup(0, (), 0)
        assert self.read(store, keys) == []
        assert total(store.stats(), "read_misses", purpose=Purpose.REUSE) == 3

    def test_an_empty_chain_is_no_mistake(self, store: Store) -> None:
        nothing = Chain(bytes(32), ())
        assert store.lookup(nothing) == Lookup(0, (), 0)
        assert self.read(store, nothing) == []
        assert put_blocks(store, nothing.fingerprint, []) == ()
        assert store.delete(nothing) == 0

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
    def test_what_was_put_is_read(self, store: Store, dtype: str) -> None:
        keys, blocks = self.blocks(5, spec=small_spec(dtype))
        answers = put_blocks(store, keys.fingerprint, blocks)
        assert all(answer.status is PutStatus.STORED and answer.tier for answer in answers)
        found = store.lookup(keys)
        assert found.ready == 5 and sum(run.blocks for run in found.runs) == 5
        loaded = self.read(store, keys)
        assert len(loaded) == 5 and all(map(same, (block for block, _ in loaded), blocks))
        assert all(tier for _, tier in loaded)

    def test_short_and_opaque_blocks_come_back_as_such(self, store: Store) -> None:
        keys, _ = self.stored(store, 1)
        tail = tail_key(self.spec, keys, [1, 2, 3], b"request")
        short = Block(tail, 3, self.spec.planes(3), random_planes(self.spec.planes(3), 7), short=True)
        put_blocks(store, keys.fingerprint, [short])
        assert same(self.read(store, keys.with_tail(tail))[1].block, short)
        opaque = OpaqueSpec("engine", "1", "m", "r", "bfloat16", "pages", 0, 1, "sha256")
        names = opaque_chain(opaque, [b"page 0", b"page 1"])
        planes = opaque.planes(1001)
        pages = [Block(key, 16, planes, random_planes(planes, index)) for index, key in enumerate(names.keys)]
        put_blocks(store, names.fingerprint, pages)
        assert all(map(same, (block for block, _ in self.read(store, names)), pages))

    @pytest.mark.parametrize(
        "part",
        [
            Part(slots=range(1, 2)),
            Part(halves=frozenset({Half.K})),
            Part(halves=frozenset({Half.V}), groups=range(1, 2)),
            Part(slots=range(0, 1), halves=frozenset({Half.K, Half.V}), groups=range(0, 1)),
        ],
    )
    def test_a_part_has_the_planes_asked_for(self, store: Store, part: Part) -> None:
        keys, blocks = self.stored(store, 3)
        with store.read(keys, part=part) as reading:
            assert [same(block, wanted, part) for (block, _), wanted in zip(reading, blocks, strict=True)] == [True] * 3

    def test_what_was_read_is_the_readers_to_change(self, store: Store) -> None:
        keys, blocks = self.stored(store, 3)
        for _ in range(3):
            loaded = self.read(store, keys)
            assert all(map(same, (block for block, _ in loaded), blocks))
            for block, _ in loaded:
                for data in block.data:
                    data[:] = 0xFF
        assert total(store.stats(), "corruptions") == 0

    def test_the_first_gap_ends_lookup_and_read(self, store: Store) -> None:
        keys, blocks = self.blocks(5)
        put_blocks(store, keys.fingerprint, [*blocks[:2], *blocks[3:]])
        assert store.lookup(keys).ready == 2
        assert len(self.read(store, keys)) == 2
        figures = store.stats()
        assert total(figures, "read_hits") == 2 and total(figures, "read_misses") == 3
        other = Chain(bytes(32), keys.keys)
        assert store.lookup(other).ready == 0 and self.read(store, other) == []

    def test_looking_changes_no_count_of_blocks(self, store: Store) -> None:
        keys, _ = self.stored(store, 2)
        counted = ("read_", "put_", "leases_")
        before = [figure for figure in store.stats() if figure.name.startswith(counted)]
        assert store.lookup(keys).ready == 2
        assert [figure for figure in store.stats() if figure.name.startswith(counted)] == before

    def test_a_lease_ends_once(self, store: Store) -> None:
        keys, _ = self.stored(store, 3)
        lease = store.lease(keys, ttl=20.0)
        assert lease.blocks == 3 and 0 < lease.ttl <= 20.0
        with pytest.raises(InvalidArgument):
            store.release(lease, [Verdict.USED] * 4)
        store.release(lease)
        for over in (lease, Lease(b"no lease ever", 3, 1.0)):
            with pytest.raises(LeaseExpired):
                store.release(over)
            with pytest.raises(LeaseExpired):
                self.read(store, keys, over)
        assert total(store.stats(), "read_blocks") == 0

    def test_a_read_uses_its_lease_up(self, store: Store) -> None:
        keys, blocks = self.stored(store, 3)
        lease = store.lease(keys)
        assert store.delete(keys) == 3
        assert all(map(same, (block for block, _ in self.read(store, keys, lease)), blocks))
        with pytest.raises(LeaseExpired):
            store.release(lease)
        assert store.lookup(keys).ready == 0 and self.read(store, keys) == []

    def test_a_lease_not_released_runs_out(self, store: Store) -> None:
        keys, _ = self.stored(store, 2)
        lease = store.lease(keys, ttl=0.1)
        until = time.monotonic() + 10
        with pytest.raises(LeaseExpired):
            while time.monotonic() < until:
                time.sleep(0.05)
                self.read(store, keys, lease)

    def test_a_read_left_early_counts_the_rest_as_missed(self, store: Store) -> None:
        keys, blocks = self.stored(store, 3)
        with store.read(keys, purpose=Purpose.HANDOFF) as reading:
            assert same(next(iter(reading)).block, blocks[0])
        figures = store.stats()
        assert total(figures, "read_hits", purpose=Purpose.HANDOFF) == 1
        assert total(figures, "read_misses", purpose=Purpose.HANDOFF) == 2
        assert total(figures, "read_blocks", purpose=Purpose.REUSE) == 0

    def test_a_read_waits_for_a_block_that_is_being_written(self, store: Store) -> None:
        keys, blocks = self.blocks(3)
        with store.put(keys.fingerprint, plans_of(blocks)) as put, ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(self.read, store, keys, None, 20.0)
            write_blocks(put, blocks)
            put.commit([0, 1])
            put.commit([2])
            assert all(map(same, (block for block, _ in waiting.result(20)), blocks))

    def test_waiting_ends(self, store: Store) -> None:
        keys, blocks = self.blocks(2)
        with store.put(keys.fingerprint, plans_of(blocks)):
            begun = time.monotonic()
            assert self.read(store, keys, wait=0.2) == []
            assert 0.2 <= time.monotonic() - begun < 5

    def test_deleted_and_cleared_blocks_are_gone(self, store: Store) -> None:
        keys, _ = self.stored(store, 4)
        assert store.delete(Chain(keys.fingerprint, keys.keys[1:3])) == 2
        assert store.lookup(keys).ready == 1
        other, _ = self.stored(store, 2, seed=2)
        assert store.clear() == 4
        assert store.lookup(keys).ready == store.lookup(other).ready == 0
        with pytest.raises(InvalidArgument, match="tier"):
            store.clear("drum")

    def test_arguments_that_cannot_be_meant_are_refused(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        refused = (
            lambda: BlockPlan(b"short", 1, blocks[0].planes),
            lambda: Chain(keys.fingerprint, (b"x" * 31,)),
            lambda: store.lookup(keys, timeout=0),
            lambda: store.lease(keys, ttl=0.0),
            lambda: store.put(bytes(31), plans_of(blocks)),
            lambda: store.put(keys.fingerprint, plans_of([*blocks, *blocks])),
            lambda: store.put(keys.fingerprint, plans_of(blocks), ttl=-1.0),
        )
        for call in refused:
            with pytest.raises(InvalidArgument):
                call()

    def test_a_block_reported_corrupt_is_counted_and_no_hit(self, store: Store) -> None:
        keys, _ = self.stored(store, 2)
        reading = store.read(keys)
        with reading:
            assert len(list(reading)) == 2
        lease = store.lease(keys)
        store.release(lease, [Verdict.USED, Verdict.CORRUPT])
        figures = store.stats()
        assert total(figures, "read_hits") == 2 and total(figures, "corruptions") == 1
