"""No wrong bytes: whatever is flipped, cut or swapped is a miss and a counter, or comes from another copy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cachestore.block import WHOLE, Block, Half, Part
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.seal import Header
from cachestore.store.base import Loaded, Verdict, put_blocks
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, same
from tests.store.small_blocks import SPEC, blocks_of

Opener = Callable[..., TieredStore]


def read(store: LocalStore, keys: Chain, part: Part = WHOLE) -> list[Loaded]:
    with store.read(keys, part=part) as reading:
        return list(reading)


def memory_of(tiered: TieredStore, store: LocalStore, key: bytes) -> Any:
    entry = tiered.index.get(Name(store.namespace, key))
    assert entry is not None
    return entry.slot


def covered(data: Any) -> list[int]:
    """The places of a sealed block that a checksum covers: the header, and planes without what lies between."""
    header = Header.parse(bytes(data))
    rows = header.stored(range(len(header.table)))
    planes = [at for row in rows for at in range(header.size + row.offset, header.size + row.offset + row.stored_bytes)]
    return [*range(header.size), *planes]


def name_of(store: LocalStore, key: bytes) -> str:
    return f"cachestore:block:{store.namespace.hex()}:{key.hex()}"


def spoiled(data: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_a_bit_flipped_in_memory_is_a_miss_and_counted(open_store: Opener, codec: str) -> None:
    tiered = open_store(codec=codec)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    places = covered(self_sealed(tiered, store, keys, blocks))
    chosen = np.random.default_rng(3).choice(places, 150, replace=False)
    for injected, at in enumerate(chosen, 1):
        put_blocks(store, keys.fingerprint, blocks)
        memory_of(tiered, store, keys.keys[0]).bytes[at] ^= 1 << injected % 8
        assert read(store, keys) == []
        figures = store.stats()
        assert total(figures, "corruptions", tier="cpu") == total(figures, "read_corrupt") == injected
        assert total(figures, "tier_removed", tier="cpu", why="corrupt") == injected
        assert store.lookup(keys).ready == 0


def self_sealed(tiered: TieredStore, store: LocalStore, keys: Chain, blocks: list[Block]) -> bytes:
    """The sealed bytes of a block as this store writes them."""
    put_blocks(store, keys.fingerprint, blocks[:1])
    sealed: bytes = memory_of(tiered, store, keys.keys[0]).bytes.tobytes()
    store.delete(keys)
    return sealed


def test_a_flipped_bit_in_memory_is_served_from_redis(open_store: Opener) -> None:
    tiered = open_store(redis={})
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    places = covered(self_sealed(tiered, store, keys, blocks))
    for injected, at in enumerate(np.random.default_rng(4).choice(places, 25, replace=False), 1):
        put_blocks(store, keys.fingerprint, blocks)
        assert tiered.settle()
        memory_of(tiered, store, keys.keys[1]).bytes[at] ^= 1
        loaded = read(store, keys)
        assert [tier for _, tier in loaded] == ["cpu", "redis", "cpu"]
        assert all(map(same, (block for block, _ in loaded), blocks)) and tiered.settle()
        figures = store.stats()
        assert total(figures, "corruptions") == injected == total(figures, "corruptions", tier="cpu")
        assert total(figures, "read_corrupt") == 0 and total(figures, "read_hits", tier="redis") == injected
        store.delete(keys)


def test_a_flipped_generation_word_is_a_miss(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(2)
    put_blocks(store, keys.fingerprint, blocks)
    slot = memory_of(tiered, store, keys.keys[1])
    slot.slab.words[slot.offset // 8] ^= np.uint64(1)
    assert [block.key for block, _ in read(store, keys)] == [keys.keys[0]]
    assert total(store.stats(), "corruptions", reason="stale") == 1
    assert len(tiered.index.entries(store.namespace)) == 1 and tiered.memory.usage().used == 2560


def test_a_part_is_not_harmed_by_what_lies_outside_it(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    slot = memory_of(tiered, store, keys.keys[0])
    slot.bytes[covered(slot.bytes)[-1]] ^= 1
    part = Part(slots=range(0, 1), halves=frozenset({Half.K}))
    assert same(read(store, keys, part)[0].block, blocks[0], part)
    assert read(store, keys) == [] and total(store.stats(), "corruptions") == 1


def test_what_lies_between_planes_is_nobodys(open_store: Opener) -> None:
    tiered = open_store(codec="lz4")
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    slot = memory_of(tiered, store, keys.keys[0])
    between = set(range(slot.nbytes)) - set(covered(slot.bytes))
    slot.bytes[sorted(between)] ^= np.uint8(255)
    assert same(read(store, keys)[0].block, blocks[0]) and total(store.stats(), "corruptions") == 0


def cold(open_store: Opener, redis_server: Callable[..., Any], blocks: int) -> tuple[Any, ...]:
    """A store whose blocks are in Redis alone, and a client to spoil them with."""
    server = redis_server()
    tiered = open_store(redis=server.url)
    store = tiered.namespace("a")
    keys, wanted = blocks_of(blocks)
    put_blocks(store, keys.fingerprint, wanted)
    assert tiered.settle() and store.clear("cpu") == blocks
    return server, tiered, store, keys, wanted


SPOILS: dict[str, tuple[str, Callable[[bytes, bytes], bytes | None]]] = {
    "flipped header": ("header", lambda own, other: spoiled(own, 200)),
    "flipped magic": ("foreign", lambda own, other: spoiled(own, 0)),
    "flipped payload": ("checksum", lambda own, other: spoiled(own, covered(own)[-1])),
    "cut payload": ("truncated", lambda own, other: own[:-64]),
    "cut header": ("truncated", lambda own, other: own[:300]),
    "cut to the magic": ("truncated", lambda own, other: own[:4]),
    "empty": ("truncated", lambda own, other: b""),
    "swapped": ("identity", lambda own, other: other),
    "pickle": ("truncated", lambda own, other: b"\x80\x04cos\nsystem\n."),
    "long pickle": ("foreign", lambda own, other: b"\x80\x04cos\nsystem\n." * 100),
    "numpy": ("foreign", lambda own, other: b"\x93NUMPY" + bytes(1000)),
    "other namespace": ("identity", lambda own, other: resealed(own, 16)),
    "unknown codec": ("codec", lambda own, other: resealed(own, 197, 0x40)),
    "unknown half": ("header", lambda own, other: resealed(own, 196, 0x40)),
    "no width": ("header", lambda own, other: resealed(own, 198, 4)),
    "huge plane": ("header", lambda own, other: resealed(own, 192 + 24 + 6)),
    "raw checksum of another": ("checksum", lambda own, other: resealed(own, 192 + 40)),
}


def resealed(data: bytes, at: int, flip: int = 1) -> bytes:
    """One byte of the header changed under a checksum that holds: the work of somebody who knows the format."""
    size = int.from_bytes(data[8:12], "little")
    header = bytearray(data[: size - 8])
    header[at] ^= flip
    return bytes(header) + xxhash.xxh3_64_intdigest(bytes(header)).to_bytes(8, "little") + data[size:]


@pytest.mark.parametrize("name", SPOILS)
def test_a_spoiled_value_in_redis_is_a_miss_counted_once_and_dropped(
    open_store: Opener, redis_server: Callable[..., Any], name: str
) -> None:
    server, tiered, store, keys, wanted = cold(open_store, redis_server, 3)
    reason, spoil = SPOILS[name]
    with server.client() as client:
        names = [name_of(store, key) for key in keys.keys]
        value = spoil(client.get(names[1]), client.get(names[2]))
        client.set(names[1], value, ex=100)
        loaded = read(store, keys)
        assert [same(block, wanted[0]) for block, _ in loaded] == [True] and tiered.settle()
        figures = store.stats()
        assert total(figures, "corruptions", tier="redis", reason=reason) == total(figures, "corruptions") == 1
        assert (total(figures, "read_hits"), total(figures, "read_corrupt"), total(figures, "read_misses")) == (1, 1, 1)
        assert client.exists(*names) == 2 and not client.exists(names[1])
        assert store.lookup(keys).ready == 1
    answers = put_blocks(store, keys.fingerprint, wanted)
    assert [str(answer.status) for answer in answers] == ["already_exists", "stored", "already_exists"]
    assert all(map(same, (block for block, _ in read(store, keys)), wanted))


@pytest.mark.parametrize("how", ["read", "verdict"])
def test_a_block_of_another_fingerprint_is_a_miss_and_stays_for_those_who_ask_for_it(
    open_store: Opener, redis_server: Callable[..., Any], how: str
) -> None:
    _, tiered, store, keys, wanted = cold(open_store, redis_server, 2)
    other = Chain(b"x" * 32, keys.keys)
    if how == "read":
        assert read(store, other) == []
        assert total(store.stats(), "corruptions", tier="redis", reason="fingerprint") == 1
    else:
        store.release(store.lease(other), [Verdict.CORRUPT] * 2)
        assert total(store.stats(), "corruptions", tier="transit") == 2
    assert tiered.settle() and store.lookup(keys).ready == 2
    assert all(map(same, (block for block, _ in read(store, keys)), wanted)) and len(read(store, keys)) == 2


def test_many_spoiled_values_are_each_counted(open_store: Opener, redis_server: Callable[..., Any]) -> None:
    server, _, store, keys, wanted = cold(open_store, redis_server, 1)
    with server.client() as client:
        name = name_of(store, keys.keys[0])
        good = client.get(name)
        random = np.random.default_rng(5)
        for injected, at in enumerate(random.choice(covered(good), 60, replace=False), 1):
            client.set(name, spoiled(good, at, int(random.integers(0, 8))), ex=100)
            assert read(store, keys) == []
            assert total(store.stats(), "corruptions", tier="redis") == injected == total(store.stats(), "read_corrupt")
        client.set(name, good, ex=100)
    assert same(read(store, keys)[0].block, wanted[0])


def test_two_copies_spoiled_are_two_corruptions_and_one_miss(
    open_store: Opener, redis_server: Callable[..., Any]
) -> None:
    server = redis_server()
    tiered = open_store(redis=server.url)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    slot = memory_of(tiered, store, keys.keys[0])
    slot.bytes[covered(slot.bytes)[-1]] ^= 1
    with server.client() as client:
        name = name_of(store, keys.keys[0])
        client.set(name, spoiled(client.get(name), 100), ex=100)
    assert read(store, keys) == []
    figures = store.stats()
    assert total(figures, "corruptions") == 2 and total(figures, "read_corrupt") == 1


def test_a_spoiled_copy_is_never_promoted_nor_demoted_as_good(
    open_store: Opener, redis_server: Callable[..., Any]
) -> None:
    server, tiered, store, keys, wanted = cold(open_store, redis_server, 1)
    with server.client() as client:
        name = name_of(store, keys.keys[0])
        client.set(name, spoiled(client.get(name), covered(client.get(name))[-1]), ex=100)
    part = Part(slots=range(0, 1))
    assert same(read(store, keys, part)[0].block, wanted[0], part)  # the planes asked for are whole
    assert tiered.settle() and total(store.stats(), "promoted") == 0
    assert read(store, keys) == [] and total(store.stats(), "corruptions") == 1


def test_what_a_reader_found_corrupt_is_looked_at_only_while_there_is_time(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    store.release(store.lease(keys), [Verdict.CORRUPT] * 3, timeout=1e-9)
    assert total(store.stats(), "corruptions") == total(store.stats(), "leases_open") == 0
    store.release(store.lease(keys), [Verdict.CORRUPT] * 3)
    assert total(store.stats(), "corruptions", tier="transit") == 3 == store.lookup(keys).ready


def test_what_a_full_disk_would_hand_down_spoiled_is_dropped_and_counted(
    open_tiers: Callable[..., TieredStore], tmp_path: Path
) -> None:
    tiers = [
        {"name": "cpu", "capacity": 16 * 2560},
        {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "1MiB"},
        {"name": "redis", "capacity": "16MiB"},
    ]
    tiered = open_tiers(tiers, {"write": "eviction"})
    store = tiered.namespace("a")
    prompts = [random_prompt(SPEC, 16, seed) for seed in range(2, 26)]
    for number, (keys, blocks) in enumerate(prompts):
        put_blocks(store, keys.fingerprint, blocks)
        assert tiered.settle()
        if number == 4:
            (path,) = (tmp_path / "blocks").rglob(prompts[0][0].keys[-1].hex())
            path.write_bytes(spoiled(path.read_bytes(), covered(path.read_bytes())[-1]))
    figures = store.stats()
    assert total(figures, "corruptions", tier="disk", reason="checksum") == 1
    assert total(figures, "tier_removed", tier="disk", why="corrupt") == 1
    assert [store.lookup(keys).ready for keys, _ in prompts] == [15] + [16] * 23
