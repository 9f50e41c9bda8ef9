"""Arguments nobody should give, blocks that somebody forged, clocks that jump, memory under storm: no wrong bytes.

After each of them the store is as healthy as before: the next good call succeeds, and nothing is held.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import lz4.block
import numpy as np
import pytest

from cachestore.block import Block, BlockSpec, Half, PlaneId, Slot
from cachestore.codecs import create
from cachestore.codecs.base import Encoded
from cachestore.errors import InvalidArgument, LeaseExpired
from cachestore.hashing import Chain, chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.seal import checksum
from cachestore.store.base import BlockPlan, Lease, put_blocks
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, random_tokens, same, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560
HOUR = 3600.0


@pytest.fixture
def tiered(open_tiers: Callable[..., TieredStore], tmp_path: Path, redis_server: Callable[..., Any]) -> TieredStore:
    """A store of four tiers, small above and larger below."""
    tiers: list[dict[str, Any]] = [
        {"name": "cpu", "capacity": 12 * BLOCK},
        {"name": "gpu", "device": "cpu", "capacity": "2MiB"},
        {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "1MiB"},
        {"name": "redis", "url": redis_server().url, "timeout": 5.0},
    ]
    return open_tiers(tiers, {"hot_after": 1})


@pytest.fixture
def store(tiered: TieredStore) -> Iterator[LocalStore]:
    """One namespace of it, which works as before when a test is over."""
    view = tiered.namespace("a")
    yield view
    keys, blocks = random_prompt(SPEC, 2, 12345)
    put_blocks(view, keys.fingerprint, blocks)
    assert all(map(same, read(view, keys), blocks)) and len(read(view, keys)) == 2


def read(store: LocalStore, keys: Chain) -> list[Block]:
    with store.read(keys) as reading:
        return [block for block, _ in reading]


# Keys and names


STRANGE = [
    b"../../../../../../etc/passwd".ljust(32, b"\0"), bytes(32), b"\xff" * 32, b"*" * 32, b"{" + b"}" * 31,
    b"\r\n$3\r\nDEL\r\n$1\r\nx\r\n".ljust(32, b"\n"), b"'; DROP TABLE blocks; --".ljust(32), b"%s%n" * 8,
]  # fmt: skip
"""Keys that would mean something in a path, a Redis command, pattern or hash tag, SQL or a format."""


@pytest.mark.parametrize("tier", ["cpu", "disk", "redis"])
def test_keys_are_bytes_and_mean_nothing_in_any_medium(tiered: TieredStore, store: LocalStore, tier: str) -> None:
    _, values = random_prompt(SPEC, len(STRANGE))
    blocks = [replace(block, key=key) for block, key in zip(values, STRANGE, strict=True)]
    keys = Chain(b"f" * 32, tuple(STRANGE))
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    for other in {"cpu", "disk", "redis"} - {tier}:
        store.clear(other)
    for block in blocks:
        (found,) = read(store, Chain(keys.fingerprint, (block.key,)))
        assert same(found, block)
    assert store.delete(Chain(keys.fingerprint, (b"*" * 32,))) == 1
    ready = [store.lookup(Chain(keys.fingerprint, (key,))).ready for key in STRANGE]
    assert ready == [int(key != b"*" * 32) for key in STRANGE]


@pytest.mark.parametrize("size", [0, 31, 33, 1_000_000])
def test_keys_of_another_length_are_refused(store: LocalStore, size: int) -> None:
    with pytest.raises(InvalidArgument, match="32 bytes"):
        BlockPlan(bytes(size), 1, SPEC.planes())
    with pytest.raises(InvalidArgument, match="after must be the 32-byte key"):
        store.put(b"f" * 32, plans_of(random_prompt(SPEC, 1)[1]), after=bytes(size))


def test_no_keys_and_a_hundred_thousand(store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 1)
    put_blocks(store, keys.fingerprint, blocks)
    nothing = Chain(keys.fingerprint, ())
    assert store.lookup(nothing).ready == 0 == store.delete(nothing) and read(store, nothing) == []
    many = Chain(keys.fingerprint, keys.keys + tuple(number.to_bytes(32, "big") for number in range(100_000)))
    assert store.lookup(many).ready == 1 == store.lease(many, ttl=0.01).blocks
    assert all(map(same, read(store, many), blocks)) and store.pin(many, 0.01) == 1 == store.delete(many)
    time.sleep(0.02)
    store.tiered.expire()


def test_the_same_key_again_and_again_is_refused(store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 1)
    with pytest.raises(InvalidArgument, match="must not repeat"):
        Chain(keys.fingerprint, keys.keys * 100_000)
    with pytest.raises(InvalidArgument, match="must not repeat"):
        store.put(keys.fingerprint, plans_of(blocks * 3))


@pytest.mark.parametrize("name", ["x" * 1_000_000, "a@b", "../a", "a\0b", "\n", "\u0430"])
def test_a_strange_namespace_is_one_of_its_own(tiered: TieredStore, store: LocalStore, name: str) -> None:
    other = tiered.namespace(name)
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(other, keys.fingerprint, blocks)
    assert tiered.settle() and all(map(same, read(other, keys), blocks))
    assert store.lookup(keys).ready == 0 == store.delete(keys) == store.clear()
    assert len(read(other, keys)) == 2


# Puts that lie


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


# Blocks and handles that are somebody else's


def test_a_valid_block_in_anothers_place_is_a_miss(tiered: TieredStore, store: LocalStore, tmp_path: Path) -> None:
    other = tiered.namespace("b")
    keys, blocks = random_prompt(SPEC, 3)
    for view in (store, other):
        put_blocks(view, keys.fingerprint, blocks)
    assert tiered.settle()
    for tier in ("cpu", "redis"):
        store.clear(tier)

    def file(view: LocalStore, number: int) -> Path:
        key = keys.keys[number].hex()
        return tmp_path / "blocks" / view.namespace.hex() / key[:2] / key

    shutil.copyfile(file(other, 0), file(store, 0))
    shutil.copyfile(file(store, 2), file(store, 1))
    for number in range(3):
        found = read(store, Chain(keys.fingerprint, keys.keys[number : number + 1]))
        assert [same(block, blocks[2]) for block in found] == [True] * (number == 2)
    assert total(store.stats(), "corruptions", tier="disk", reason="identity") == 2
    assert len(read(other, keys)) == 3


def test_a_handle_of_nobody_of_another_or_of_the_past_is_refused(tiered: TieredStore, store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    theirs, over, short = store.lease(keys), store.lease(keys), store.lease(keys, ttl=1e-3)
    store.release(over)
    time.sleep(5e-3)
    guessed = Lease(bytes(16), 2, 10.0)
    for view, lease in (
        (store, guessed), (store, over), (store, short), (tiered.namespace("b"), theirs), (store, Lease(b"", 2, 10.0)),
    ):  # fmt: skip
        with pytest.raises(LeaseExpired):
            view.read(keys, lease=lease)
        with pytest.raises(LeaseExpired):
            view.release(lease)
        with pytest.raises(LeaseExpired):
            view.renew(lease.id, 10.0)
    with pytest.raises(InvalidArgument, match="another chain"):
        store.read(Chain(keys.fingerprint, keys.keys[::-1]), lease=theirs)
    store.release(theirs)


# Memory, time and values


def test_a_slot_that_was_filled_anew_is_never_read_as_what_it_was(tiered: TieredStore, store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 12)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    reading = store.read(keys)
    sealed = next(iter(reading.sealed))
    before = tiered.index.get(Name(store.namespace, sealed.header.key))
    assert before is not None
    place = before.slot.slab, before.slot.offset
    # the lease ends under the reader, and others take the memory
    store.release(Lease(reading.sealed.lease.id, 12, 1.0))
    store.clear("cpu")
    others, values = random_prompt(SPEC, 12, 2)
    put_blocks(store, others.fingerprint, values)
    after = [(entry.slot.slab, entry.slot.offset) for entry in tiered.index.entries(store.namespace)]
    assert place in after
    with pytest.raises(Exception, match="stale"):
        sealed.check()
    assert list(reading) == []
    reading.close()


def test_bytes_are_right_in_a_storm_of_evictions(tiered: TieredStore) -> None:
    prompts = [random_prompt(SPEC, 6, seed) for seed in range(8)]
    views = [tiered.namespace(name) for name in "ab"]
    until = time.monotonic() + 3

    def storm(seed: int) -> tuple[int, int]:
        random, hits, wrong = Random(seed), 0, 0
        while time.monotonic() < until:
            view, (keys, blocks) = random.choice(views), random.choice(prompts)
            count = random.randint(1, 6)
            if random.random() < 0.4:
                put_blocks(view, keys.fingerprint, blocks[:count])
            elif random.random() < 0.1:
                view.clear("cpu")
            else:
                into = [np.empty(1792, np.uint8) for _ in range(count)] if random.random() < 0.5 else None
                with view.read(keys.first(count), into=into) as reading:
                    for index, (block, _) in enumerate(reading):
                        hits += 1
                        wrong += not same(block, blocks[index])
        return hits, wrong

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(storm, range(8)))
    assert sum(wrong for _, wrong in results) == 0 and sum(hits for hits, _ in results) > 10
    figures = [figure for view in views for figure in view.stats()]
    assert total(figures, "corruptions") == 0 and total(figures, "evicted", tier="cpu") > 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_wall_clock_that_jumps_ends_no_lease_and_no_block_without_a_time(
    tiered: TieredStore, store: LocalStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    keys, blocks = random_prompt(SPEC, 4)
    put_blocks(store, keys.fingerprint, blocks)
    lease = store.lease(keys)
    short, values = random_prompt(SPEC, 2, 2)
    with store.put(short.fingerprint, plans_of(values), ttl=0.2) as put:
        write_blocks(put, values)
        put.commit()
    assert tiered.settle()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    tiered.expire()
    with store.read(keys, lease=lease) as reading:
        assert all(map(same, (block for block, _ in reading), blocks))
    store.clear("cpu")
    assert all(map(same, read(store, keys), blocks)) and len(read(store, keys)) == 4
    if jump > 0:
        assert store.lookup(short).runs == () or {run.tier for run in store.lookup(short).runs} <= {"redis", "gpu"}
    monkeypatch.undo()


@pytest.mark.parametrize("codec", ["raw", "lz4", "entropy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_bit_of_every_value_comes_back(open_store: Callable[..., TieredStore], dtype: str, codec: str) -> None:
    spec = BlockSpec("test/values", "0" * 40, dtype, (Slot(1, 32, 32),), 1, block_tokens=2048)
    store = open_store("8MiB", codec=codec).namespace("a")
    words = np.arange(1 << 16, dtype="<u2")
    patterns = {
        # every half-precision value there is: NaNs with every payload, infinities, -0.0, subnormals
        "all": words, "nan": words | 0x7F81, "subnormal": words & 0x807F, "negative zero": words * 0 + 0x8000,
        "infinity": words * 0 + 0x7F80,
    }  # fmt: skip
    for number, pattern in enumerate(patterns.values()):
        tokens = random_tokens(spec.block_tokens, number)
        keys, planes = chain(spec, tokens), spec.planes()
        data = [np.resize(pattern.view(np.uint8), plane.raw_bytes) for plane in planes]
        block = Block(keys.keys[0], spec.block_tokens, planes, data)
        put_blocks(store, keys.fingerprint, [block])
        (found,) = read(store, keys)
        assert same(found, block)
