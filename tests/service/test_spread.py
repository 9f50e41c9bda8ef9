"""Blocks whose pieces lie anywhere in one memory: put and read at once, and as well checked as one that is alone."""

import numpy as np
import pytest

from cachestore.block import Block, OpaqueSpec, PlaneId
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain, opaque_chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.shared import filling
from cachestore.service.shared.filling import AT_ONCE
from cachestore.store.base import PutStatus, put_blocks
from cachestore.store.spread import LITTLE, Spread
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_planes

SPEC = OpaqueSpec("engine", "1", "m", "r", "bfloat16", "pages", 0, 1, "sha256")
MANY = 2 * AT_ONCE + 5
SIZES = (3000, 1000)


def pages(count: int, sizes: tuple[int, ...] = SIZES) -> tuple[Chain, list[Block]]:
    """Blocks of a plane of each of these sizes."""
    keys = opaque_chain(SPEC, [b"page %d" % number for number in range(count)])
    planes: tuple[PlaneId, ...] = tuple(SPEC.planes(nbytes)[0]._replace(slot=slot) for slot, nbytes in enumerate(sizes))
    return keys, [Block(key, 1, planes, random_planes(planes, number)) for number, key in enumerate(keys.keys)]


def spread(blocks: list[Block], *, filled: bool) -> Spread:
    """Room for these blocks in one memory, their pieces in any order, with a gap before each; what they have, or 7s."""
    sizes = tuple(data.nbytes for data in blocks[0].data)
    width = max(sizes) + 5
    order = np.random.default_rng(2).permutation(len(blocks) * len(sizes)).reshape(len(blocks), -1)
    found = Spread(np.full(order.size * width, 7, dtype=np.uint8), order * width + 5, sizes)
    for block, rooms in zip(blocks, found, strict=True):
        for data, room in zip(block.data, rooms, strict=True):
            room[:] = data if filled else 0
    return found


def came(blocks: list[Block], into: Spread, count: int) -> bool:
    """Whether the first so many are there, and nothing between the pieces was written to."""
    edges = all((into.memory[start - 5 : start] == 7).all() for start in into.starts.ravel().tolist())
    return edges and all(all(map(np.array_equal, blocks[number].data, into[number])) for number in range(count))


@pytest.mark.parametrize("sizes", [SIZES, (LITTLE + 64, 64)])
def test_they_come_back_as_they_were(shared: RemoteStore, sizes: tuple[int, ...]) -> None:
    keys, blocks = pages(MANY if sizes is SIZES else 9, sizes)
    put_blocks(shared, keys.fingerprint, blocks[3:5])
    with shared.put(keys.fingerprint, plans_of(blocks)) as put:
        put.write_whole(spread(blocks, filled=True))
        with pytest.raises(InvalidArgument, match="written before"):
            put.write_whole(spread(blocks, filled=True))
        put.commit()
        statuses = [answer.status for answer in put.answers]
    assert statuses[3:5] == [PutStatus.ALREADY_EXISTS] * 2 and set(statuses[5:]) == {PutStatus.STORED}
    into = spread(blocks, filled=False)
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == len(blocks)
    assert came(blocks, into, len(blocks))
    check_sums(shared.stats())


@pytest.mark.parametrize("at", [0, 3, AT_ONCE, MANY - 1])
@pytest.mark.parametrize("where", ["header", "payload"])
def test_damage_ends_it_and_is_counted_once(tiered: TieredStore, shared: RemoteStore, where: str, at: int) -> None:
    keys, blocks = pages(MANY)
    put_blocks(shared, keys.fingerprint, blocks)
    ready = tiered.index.ready(tiered.namespace("default").namespace, keys.fingerprint)
    ready[keys.keys[at]].slot.bytes[150 if where == "header" else -70] ^= 1
    into = spread(blocks, filled=False)
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == at
    assert came(blocks, into, at)
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "corruptions") == total(figures, "read_corrupt") == 1


def test_memory_that_is_used_again_meanwhile_is_a_miss(
    tiered: TieredStore, shared: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, blocks = pages(9)
    put_blocks(shared, keys.fingerprint, blocks)
    moved = filling.moved

    def slowly(*given: object) -> object:
        found = moved(*given)  # type: ignore[arg-type]
        with tiered.index.changed:
            for holding in list(tiered.leases._open.values()):
                tiered.leases.end(holding)
        assert shared.delete(Chain(keys.fingerprint, keys.keys[4:5])) == 1
        monkeypatch.undo()
        return found

    monkeypatch.setattr(filling, "moved", slowly)
    into = spread(blocks, filled=False)
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == 4
    assert came(blocks, into, 4) and total(shared.stats(), "corruptions") == 0


def test_pieces_of_other_sizes_are_a_miss(shared: RemoteStore) -> None:
    keys, blocks = pages(2)
    put_blocks(shared, keys.fingerprint, blocks)
    into = Spread(np.zeros(8000, dtype=np.uint8), np.array([[0, 1000], [4000, 5000]]), (1000, 3000))
    with shared.read(keys, into=into) as reading:
        assert reading.fill() == 0
    assert not into.memory.any() and shared.lookup(keys).ready == 2


def test_what_cannot_be_filled_or_put_is_refused(shared: RemoteStore) -> None:
    keys, blocks = pages(1)
    memory = np.zeros(4000, dtype=np.uint8)
    fixed = memory.copy()
    fixed.flags.writeable = False
    for wrong in (
        Spread(memory, np.array([[0, 3001]]), SIZES),
        Spread(memory, np.array([[-1, 3000]]), SIZES),
        Spread(memory, np.array([[0]]), SIZES),
        Spread(np.zeros(8000, dtype=np.uint8)[::2], np.array([[0, 3000]]), SIZES),
        Spread(memory, np.array([[0, 1000]]), (1000, 3000)),
        Spread(memory, np.array([[0, 3000]] * 2), SIZES),
    ):
        with shared.put(keys.fingerprint, plans_of(blocks)) as put, pytest.raises(InvalidArgument):
            put.write_whole(wrong)
    for wrong in (Spread(fixed, np.array([[0, 3000]]), SIZES), Spread(memory, np.array([[0, 3001]]), SIZES)):
        with pytest.raises(InvalidArgument):
            shared.read(keys, into=wrong)
