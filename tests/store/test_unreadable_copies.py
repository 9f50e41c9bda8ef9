"""Copies that this store cannot read, though another may: never for ever in the way of what is put anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from cachestore.block import Block, Half, PlaneId
from cachestore.codecs import by_id
from cachestore.hashing import namespace_id
from cachestore.metrics import total
from cachestore.plane_table import Stored, table_of
from cachestore.seal import Header, aligned, checksum
from cachestore.store.base import Durability, Store, put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks

KEYS, BLOCKS = random_prompt(small_spec(), 20)


def put(store: Store, durability: Durability) -> list[str]:
    with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=durability) as open_put:
        write_blocks(open_put, BLOCKS)
        open_put.commit()
        return [str(answer.status) for answer in open_put.answers]


def read(store: Store) -> list[Block]:
    with store.read(KEYS) as reading:
        return [block for block, _ in reading]


@pytest.fixture
def key_files(tmp_path: Path) -> list[str]:
    files = [tmp_path / "first.keys", tmp_path / "second.keys"]
    for epoch, path in enumerate(files, 1):
        path.touch(mode=0o600)
        path.write_text(f"{epoch} {'ab' * 32}\n")
    return [str(path) for path in files]


@pytest.mark.parametrize("second", list(Durability))
@pytest.mark.parametrize(("before", "after"), [(0, 1), (None, 0), (0, None)])
def test_after_another_key_a_prompt_is_stored_anew(
    tmp_path: Path, key_files: list[str], before: int | None, after: int | None, second: Durability
) -> None:
    def opened(key: int | None) -> TieredStore:
        disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
        sealing = {} if key is None else {"sealing": {"key_file": key_files[key]}}
        return compose({"tiers": [{"name": "cpu", "capacity": "1MiB"}, disk], **sealing})

    with opened(before) as tiered:
        assert put(tiered.namespace("a"), Durability.DURABLE) == ["stored"] * len(BLOCKS)
    with opened(after) as tiered:
        store = tiered.namespace("a")
        assert read(store) == [] and tiered.settle()
        assert store.lookup(KEYS).ready == 0
        assert put(store, second) == ["stored"] * len(BLOCKS) and tiered.settle()
        assert store.clear("cpu") == len(BLOCKS)
        assert all(map(same, read(store), BLOCKS)) and store.lookup(KEYS).ready == len(BLOCKS)
        assert total(store.stats(), "tier_removed", tier="disk", why="replaced") == len(BLOCKS)
    with opened(after) as tiered:
        assert len(read(tiered.namespace("a"))) == len(BLOCKS)


def test_a_durable_put_finds_out_by_itself(tmp_path: Path, key_files: list[str]) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tables: dict[str, Any] = {"tiers": [{"name": "cpu", "capacity": "1MiB"}, disk]}
    with compose({**tables, "sealing": {"key_file": key_files[0]}}) as tiered:
        put(tiered.namespace("a"), Durability.DURABLE)
    with compose(tables) as tiered:
        assert put(tiered.namespace("a"), Durability.DURABLE) == ["stored"] * len(BLOCKS)
        assert tiered.namespace("a").clear("cpu") == len(BLOCKS)
        assert all(map(same, read(tiered.namespace("a")), BLOCKS))


def large(nbytes: int) -> bytes:
    """A small value under the first key whose one plane decodes to `nbytes`."""
    raw, plane = np.zeros(nbytes, dtype=np.uint8), PlaneId(0, Half.K, 0, 1, nbytes)
    codec = by_id(2)
    assert codec is not None
    stored = codec.encode(raw, plane)
    assert stored is not None
    payload = np.zeros(aligned(stored.nbytes), dtype=np.uint8)
    payload[: stored.nbytes] = stored
    row = Stored(2, 0, stored.nbytes, checksum(stored), checksum(raw))
    header = Header(
        namespace_id("a"), KEYS.keys[0], KEYS.fingerprint, 4, table_of([plane], [row]), bytes(16), 1, 0, payload.nbytes
    )
    return header.pack() + payload.tobytes()


def test_a_small_value_that_decodes_to_more_than_memory_is_not_decoded(
    open_store: Callable[..., TieredStore], redis_server: Callable[..., Any]
) -> None:
    server = redis_server()
    tiered = open_store("1MiB", server.url)
    store = tiered.namespace("a")
    value = large(2 << 20)
    assert len(value) < 16 << 10
    name = f"cachestore:block:{namespace_id('a').hex()}:{KEYS.keys[0].hex()}"
    with server.client() as client:
        client.set(name, value, px=60_000)
        assert store.pin(KEYS.first(1), 60) == 0
        assert read(store) == [] and store.lookup(KEYS).ready == 0
        assert total(store.stats(), "corruptions", tier="redis", reason="size") == 1
        assert client.exists(name)
        answers = put_blocks(store, KEYS.fingerprint, BLOCKS[:1])
        assert [str(answer.status) for answer in answers] == ["stored"] and tiered.settle()
        assert store.clear("cpu") == 1 and same(read(store)[0], BLOCKS[0])


def test_a_block_of_another_release_is_a_miss_and_stays(
    open_store: Callable[..., TieredStore], redis_server: Callable[..., Any]
) -> None:
    server = redis_server()
    tiered = open_store("1MiB", server.url)
    store = tiered.namespace("a")
    put(store, Durability.CACHE)
    assert tiered.settle() and store.clear("cpu") == len(BLOCKS)
    name = f"cachestore:block:{namespace_id('a').hex()}:{KEYS.keys[3].hex()}"
    with server.client() as client:
        own = client.get(name)
        size = int.from_bytes(own[8:12], "little")
        # a later header is longer, and what lies behind its front is no concern of ours
        header = own[:4] + (2).to_bytes(2, "little") + own[6:8] + (size + 64).to_bytes(4, "little") + own[12 : size - 8]
        header += bytes(range(64))
        newer = header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little") + own[size:]
        client.set(name, newer, px=60_000)
        assert len(read(store)) == 3 and tiered.settle()
        assert total(store.stats(), "corruptions", tier="redis", reason="version") == 1
        assert total(store.stats(), "corruptions") == 1 and total(store.stats(), "tier_removed", tier="redis") == 0
        assert client.get(name) == newer and store.lookup(KEYS).ready == 3


def test_what_the_disk_finds_spoiled_at_the_start_is_counted(tmp_path: Path) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tables: dict[str, Any] = {"tiers": [{"name": "cpu", "capacity": "1MiB"}, disk]}
    with compose(tables) as tiered:
        put(tiered.namespace("a"), Durability.DURABLE)
    first, second, *_ = [path for path in (tmp_path / "blocks").rglob("*") if path.is_file()]
    first.write_bytes(first.read_bytes()[:500])
    data = bytearray(second.read_bytes())
    data[100] ^= 1
    second.write_bytes(data)
    with compose(tables) as tiered:
        figures = tiered.namespace("a").stats()
        reasons = ("truncated", "header")
        assert [total(figures, "corruptions", tier="disk", reason=reason) for reason in reasons] == [1, 1]
        assert total(figures, "corruptions") == 2
