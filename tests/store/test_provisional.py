"""Reading blocks while they are written, in one process."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import numpy as np
import pytest

from cachestore.block import Block, Buffer
from cachestore.codecs import create
from cachestore.codecs.planes import encode_plane
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.plane_table import TABLE
from cachestore.seal import Header, checksum
from cachestore.store.adopting import Front, last_write, read_table
from cachestore.store.base import PutStatus
from cachestore.store.laying import Laying, Layout
from cachestore.store.local import LocalStore
from cachestore.store.put import LocalPut
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


class Elsewhere:
    """A writer that was lent the slot of a block, and lays raw planes into it."""

    def __init__(self, slot: Buffer, block: Block) -> None:
        layout = Layout(block.planes)
        self.slot, self.start = slot, layout.start
        self.payload = slot[layout.start :]
        self.table = slot[: layout.table.nbytes].view(TABLE)
        self._front = Front(slot, layout.start)
        self._laying = Laying(layout, lambda: self.payload)
        self._block = block

    def lay(self, planes: range, write: int) -> None:
        """Lays these planes, and leaves word of that."""
        data = np.concatenate(self._block.data[planes.start : planes.stop])
        self._laying.append_run(self._laying.layout.run_of(planes), data)
        self._front.laid(planes, self._laying.table(), write)


@contextmanager
def lent(put: LocalPut, blocks: list[Block]) -> Iterator[list[Elsewhere]]:
    """Writers of a put's blocks, who give up with the put."""
    entries = put.lend()
    try:
        yield [Elsewhere(entry.slot.bytes, blocks[number]) for number, entry in entries.items()]
    finally:
        put.abort()
        with put.tiered.index.changed:
            for entry in entries.values():
                put.tiered.index.leave(entry)


@pytest.fixture
def theirs(open_store: OpenStore) -> Iterator[LocalStore]:
    """A store that the owner `writer` has memory of."""
    tiered = open_store()
    store = tiered.namespace("a")
    yield store
    tiered.disown(store.namespace, b"writer")
    assert tiered.journals.quiet


@pytest.mark.parametrize("lies", [False, True])
def test_what_a_writer_elsewhere_lays_is_provisional(theirs: LocalStore, *, lies: bool) -> None:
    """What is handed out is what was published, whatever was shown before."""
    keys, blocks = random_prompt(small_spec(), 2)
    with (
        theirs.put(keys.fingerprint, plans_of(blocks), owner=b"writer") as put,
        theirs.read(keys, wait=20.0, provisional=True) as reading,
        lent(put, blocks) as (first, second),
    ):
        second.lay(range(4), 1)
        first.lay(range(4, 8), 2)
        second.lay(range(4, 8), 3)
        planes = reading.planes()
        came = list(islice(planes, 12))
        laid = [(1, range(4)), (0, range(4, 8)), (1, range(4, 8))]
        assert [plane[:2] for plane in came] == [(block, plane) for block, run in laid for plane in run]
        first.lay(range(4), 4)
        came += islice(planes, 3)
        assert all(right(plane, blocks) for plane in came)
        if lies:
            changed = blocks[0].data[4]
            changed[:] = first.payload[: changed.nbytes] = 7
            row = first.table[4:5]
            row["stored_checksum"] = row["raw_checksum"] = checksum(changed)
        put.adopt([0, 1])
        put.commit()
        assert [right(plane, blocks) for plane in planes] == [True]
        assert [same(found, block) for (found, _), block in zip(reading, blocks, strict=True)] == [True] * 2


def test_what_a_slot_held_before_is_not_shown(theirs: LocalStore) -> None:
    """A writer elsewhere gave up; what it laid still lies where another one begins."""
    keys, blocks = random_prompt(small_spec(), 1)
    plans = plans_of(blocks)
    with theirs.put(keys.fingerprint, plans, owner=b"writer") as put, lent(put, blocks) as (writer,):
        writer.lay(range(8), 1)
    with theirs.put(keys.fingerprint, plans, owner=b"writer") as again:
        entries = again.lend()
        assert np.shares_memory(entries[0].slot.bytes, writer.payload)
        with theirs.read(keys, wait=0.2, provisional=True) as reading:
            assert list(reading.planes()) == []
        with again.tiered.index.changed:
            again.tiered.index.leave(entries[0])


@pytest.mark.parametrize(
    ("field", "value"), [("offset", 1 << 40), ("offset", 1), ("stored_bytes", 1), ("codec", 99), ("stored_checksum", 1)]
)
def test_a_table_elsewhere_that_is_not_sound_shows_nothing(theirs: LocalStore, field: str, value: int) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    with (
        theirs.put(keys.fingerprint, plans_of(blocks), owner=b"writer") as put,
        theirs.read(keys, wait=20.0, provisional=True) as reading,
        lent(put, blocks) as (first, second),
    ):
        first.lay(range(4), 1)
        first.table[field][2] = value
        first.lay(range(4, 8), 2)
        second.lay(range(8), 3)
        planes = reading.planes()
        came = [next(planes) for _ in range(8)]
        assert [plane[:2] for plane in came] == [(1, plane) for plane in range(8)]
        put.adopt([0])
        put.adopt([1])
        put.commit()
        assert list(planes) == [] and list(reading) == []
    assert [answer.status for answer in put.answers] == [PutStatus.FAILED, PutStatus.STORED]


@pytest.mark.parametrize("wrong", [0, 1, 4])
@pytest.mark.parametrize(
    "field", ["offset", "stored_bytes", "codec", "stored_checksum", "slot", "raw_bytes", "last write"]
)
def test_a_table_that_is_not_sound_fails_its_block_alone(theirs: LocalStore, field: str, wrong: int) -> None:
    keys, blocks = random_prompt(small_spec(), 6)
    with (
        theirs.put(keys.fingerprint, plans_of(blocks), after=bytes(32), owner=b"writer") as put,
        lent(put, blocks) as writers,
    ):
        for number, writer in enumerate(writers):
            writer.lay(range(8), number + 1)
        if field == "last write":
            last_write(writers[wrong].slot, writers[wrong].start)[0] = 0
        else:
            writers[wrong].table[field][2] = {"raw_bytes": 0, "codec": 99}.get(
                field, writers[wrong].table[field][2] + 1
            )
        put.adopt(range(6))
        put.commit()
    assert [answer.block for answer in put.answers if answer.status is PutStatus.FAILED] == [wrong]
    rest = [number for number in range(6) if number != wrong]
    others = Chain(keys.fingerprint, tuple(keys.keys[number] for number in rest))
    there = theirs.tiered.index.ready(theirs.namespace, keys.fingerprint)
    headers = [Header.parse(there[key].slot.bytes) for key in others.keys]
    assert [header.parent for header in headers] == [keys.keys[n - 1][:16] if n else bytes(16) for n in rest]
    assert len({header.sequence for header in headers}) == 5
    with theirs.read(others) as loaded:
        assert [same(block, blocks[number]) for number, (block, _) in zip(rest, loaded, strict=True)] == [True] * 5


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


def test_a_writer_that_changes_its_generation_holds_no_reader(theirs: LocalStore) -> None:
    """It may write to all of its memory, also to the number that tells whether the memory is still the block's."""
    keys, blocks = random_prompt(small_spec(), 1)
    with (
        theirs.put(keys.fingerprint, plans_of(blocks), owner=b"writer") as put,
        theirs.read(keys, wait=0.5, timeout=20.0, provisional=True) as reading,
        ThreadPoolExecutor(1) as thread,
        lent(put, blocks) as (writer,),
    ):
        (entry,) = theirs.tiered.index.everything()
        words, word, generation = entry.slot.slab.words, entry.slot.offset // 8, entry.slot.generation
        writer.lay(range(8), 1)
        writer.payload[0] ^= 1
        words[word] = generation + 1000
        try:
            came = thread.submit(list, reading.planes()).result(10)
        finally:
            words[word] = generation
        assert [plane.plane for plane in came] == list(range(1, 8)) and all(right(plane, blocks) for plane in came)


def test_a_row_has_the_number_of_its_write_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks while it is copied takes nothing else for a number."""
    _, (block,) = random_prompt(small_spec(), 1)
    layout = Layout(block.planes)
    slot = np.zeros(1 << 20, dtype=np.uint8)
    writer, copy, seen = Elsewhere(slot, block), np.copyto, set[int]()
    writer.lay(range(4), 1)

    def copied(to: Buffer, data: Buffer) -> None:
        copy(to, data)
        seen.update(read_table(slot, layout.table)[1].tolist())

    monkeypatch.setattr(np, "copyto", copied)
    writer.lay(range(4, 8), 2)
    assert seen == {0, 1}
