"""Many blocks that are copied at once from the store's memory: each as well checked as one that is read alone."""

from dataclasses import replace

import numpy as np
import pytest

from cachestore.block import Block, Buffer, OpaqueSpec, PlaneId
from cachestore.hashing import Chain, opaque_chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.shared import filling
from cachestore.service.shared import source as shared_source
from cachestore.service.shared.filling import AT_ONCE
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_planes
from cachestore.testing.taking import Breaking, Keeper
from tests.service.sessions import SOON

SPEC = OpaqueSpec("engine", "1", "m", "r", "bfloat16", "pages", 0, 1, "sha256")
MANY = 2 * AT_ONCE + 5
RUN = 3000


def pages(count: int, *, runs: int = 2) -> tuple[Chain, list[Block]]:
    """Blocks of small planes."""
    keys = opaque_chain(SPEC, [b"page %d" % number for number in range(count)])
    planes: tuple[PlaneId, ...] = tuple(SPEC.planes(RUN)[0]._replace(slot=slot) for slot in range(runs))
    return keys, [Block(key, 1, planes, random_planes(planes, number)) for number, key in enumerate(keys.keys)]


def room(blocks: list[Block]) -> list[list[Buffer]]:
    return [[np.zeros_like(data) for data in block.data] for block in blocks]


def came(blocks: list[Block], into: list[list[Buffer]], count: int) -> bool:
    return all(all(map(np.array_equal, block.data, given)) for block, given in zip(blocks[:count], into, strict=False))


def test_whole_blocks_are_seen_before_their_commit(shared: RemoteStore, server: CacheStoreServer) -> None:
    keys, blocks = pages(MANY)
    with shared.put(keys.fingerprint, plans_of(blocks)) as put, RemoteStore(server.address) as reader:
        put.write_whole({number: block.data for number, block in enumerate(blocks)})
        with reader.read(keys, wait=SOON, provisional=True) as reading:
            planes = reading.planes()
            for number, block in enumerate(blocks):
                for plane, data in enumerate(block.data):
                    came = next(planes)
                    assert (came.block, came.plane) == (number, plane) and np.array_equal(came.data, data)
            put.commit()
            assert len(list(reading)) == MANY


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that were not copied with others."""
    loads: list[int] = []
    load = shared_source.SharedSource.load

    def counted(self: shared_source.SharedSource, number: int, into: Buffer | None) -> object:
        loads.append(number)
        return load(self, number, into)

    monkeypatch.setattr(shared_source.SharedSource, "load", counted)
    return loads


def test_blocks_that_are_alike_come_all_at_once(shared: RemoteStore, alone: list[int]) -> None:
    keys, blocks = pages(MANY)
    put_blocks(shared, keys.fingerprint, blocks)
    into = room(blocks)
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == MANY and came(blocks, into, MANY)
    assert not alone
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "read_hits") == MANY


@pytest.mark.parametrize("at", [0, 1, AT_ONCE, MANY - 1])
def test_a_block_of_another_kind_comes_too(shared: RemoteStore, alone: list[int], at: int) -> None:
    keys, blocks = pages(MANY)
    blocks[at] = replace(blocks[at], token_count=2)
    put_blocks(shared, keys.fingerprint, blocks)
    into = room(blocks)
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == MANY and came(blocks, into, MANY)
    assert not alone


@pytest.mark.parametrize("at", [0, 3, AT_ONCE, MANY - 1])
@pytest.mark.parametrize("where", ["header", "first plane", "last plane", "key"])
def test_damage_ends_it_and_is_counted_once(tiered: TieredStore, shared: RemoteStore, where: str, at: int) -> None:
    keys, blocks = pages(MANY)
    put_blocks(shared, keys.fingerprint, blocks)
    slots = [
        entry.slot for entry in tiered.index.ready(tiered.namespace("default").namespace, keys.fingerprint).values()
    ]
    header = slots[at].nbytes - 2 * 3008
    if where == "key":
        # a whole and sound block, but another one
        slots[at].bytes[:] = slots[at - 1].bytes
    else:
        slots[at].bytes[{"header": 150, "first plane": header, "last plane": header + 3008 + RUN - 1}[where]] ^= 1
    into = room(blocks)
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == at and came(blocks, into, at)
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "corruptions") == total(figures, "read_corrupt") == 1
    assert shared.lookup(keys).ready == at


@pytest.mark.parametrize("at", [0, 3, AT_ONCE, MANY - 1])
@pytest.mark.parametrize("where", ["header", "first plane", "last plane"])
def test_a_taker_is_handed_nothing_that_does_not_hold(
    tiered: TieredStore, shared: RemoteStore, alone: list[int], where: str, at: int
) -> None:
    keys, blocks = pages(MANY)
    put_blocks(shared, keys.fingerprint, blocks)
    slots = [
        entry.slot for entry in tiered.index.ready(tiered.namespace("default").namespace, keys.fingerprint).values()
    ]
    header = slots[at].nbytes - 2 * 3008
    slots[at].bytes[{"header": 150, "first plane": header, "last plane": header + 3008 + RUN - 1}[where]] ^= 1
    keeper = Keeper([RUN, RUN])
    with shared.read(keys) as reading:
        assert reading.fill(keeper) == at
    # of the one that does not hold nothing counts, and what was handed on is sound
    assert len(keeper.taken) == at + (where == "last plane") and alone == [at]
    for taken, block in zip(keeper.taken, blocks, strict=False):
        assert all(map(np.array_equal, taken, block.data))
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "corruptions") == total(figures, "read_corrupt") == 1
    assert shared.lookup(keys).ready == at


@pytest.mark.parametrize("at, sure", [(0, 0), (AT_ONCE - 1, 0), (AT_ONCE, AT_ONCE), (AT_ONCE + 2, AT_ONCE)])
def test_where_a_taker_breaks_off_those_came_that_nothing_moved(shared: RemoteStore, at: int, sure: int) -> None:
    keys, blocks = pages(MANY)
    put_blocks(shared, keys.fingerprint, blocks)
    keeper = Breaking([RUN, RUN], at)
    with shared.read(keys) as reading:
        with pytest.raises(OSError, match="broken"):
            reading.fill(keeper)
        # of those that are copied at once it is known at their end
        assert reading.came == sure
    for taken, block in zip(keeper.taken[:sure], blocks, strict=False):
        assert all(map(np.array_equal, taken, block.data))
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "read_hits") == sure


def test_a_taker_whose_rooms_end_within_a_plane_gets_blocks_one_by_one(shared: RemoteStore, alone: list[int]) -> None:
    keys, blocks = pages(MANY)
    put_blocks(shared, keys.fingerprint, blocks)
    keeper = Keeper([RUN - 1, RUN + 1])
    with shared.read(keys) as reading:
        assert reading.fill(keeper) == MANY == len(alone)
    for taken, block in zip(keeper.taken, blocks, strict=True):
        assert np.array_equal(np.concatenate(taken), np.concatenate(block.data))


def test_much_is_copied_with_a_look_at_the_clock(shared: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, blocks = pages(9)
    put_blocks(shared, keys.fingerprint, blocks)
    monkeypatch.setattr(filling, "MUCH", 2 * 2 * 3008 + 3000)
    calls: list[int] = []

    def counted(*given: object) -> int:
        calls.append(filling.filled(*given))  # type: ignore[arg-type]
        return calls[-1]

    monkeypatch.setattr(shared_source, "filled", counted)
    into = room(blocks)
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == 9 and came(blocks, into, 9)
    assert calls == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("at", [0, 1, AT_ONCE + 1])
def test_memory_that_is_used_again_meanwhile_is_a_miss(
    tiered: TieredStore, shared: RemoteStore, monkeypatch: pytest.MonkeyPatch, at: int, taken: bool
) -> None:
    keys, blocks = pages(MANY)
    put_blocks(shared, keys.fingerprint, blocks)
    way = "_handed" if taken else "_copied"
    copied, left = getattr(filling, way), [at]

    def slowly(*given: object) -> object:
        found: object = copied(*given)
        if not left[0]:
            with tiered.index.changed:
                for holding in list(tiered.leases._open.values()):
                    tiered.leases.end(holding)
            assert shared.delete(Chain(keys.fingerprint, keys.keys[at : at + 1])) == 1
        left[0] -= 1
        return found

    monkeypatch.setattr(filling, way, slowly)
    into, keeper = room(blocks), Keeper([RUN, RUN])
    with shared.read(keys, into=None if taken else into) as reading:
        assert reading.fill(keeper if taken else None) == at
    assert came(blocks, keeper.taken if taken else into, at)
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "corruptions") == 0
