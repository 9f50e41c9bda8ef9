"""A store that starts on a folder full of files: how long that takes, what it answers meanwhile, and what it knows."""

import gc
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from cachestore.block import Half, PlaneId
from cachestore.codecs.base import RAW
from cachestore.deadline import Deadline
from cachestore.hashing import Chain, namespace_id
from cachestore.metrics import total
from cachestore.plane_table import Stored, table_of
from cachestore.seal import PARENT_BYTES, Header
from cachestore.store.base import Lookup
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.tiers.disk_files import place_of
from tests.faults.calls import LATE

CHAIN = 200
FINGERPRINT, OTHER = b"f" * 32, b"g" * 32
SECONDS_A_FILE, SECONDS_AT_ALL = 1e-3, 5
BYTES_A_FILE, BYTES_AT_ALL = 1024, 16 << 20
TABLES = {"codecs": {"name": "raw"}, "store": {"prefetch": False}}


def tables(folder: Path) -> dict[str, object]:
    disk = {"name": "disk", "path": str(folder), "capacity": "8GiB"}
    return {**TABLES, "tiers": [{"name": "cpu", "capacity": "4MiB"}, disk]}


def chain_of(number: int) -> Chain:
    """The keys of one prompt; every other prompt is one of another model."""
    keys = tuple(sha256(f"{number} {block}".encode()).digest() for block in range(CHAIN))
    return Chain(OTHER if number % 2 else FINGERPRINT, keys)


def packed(namespace: bytes, keys: Chain, block: int, expires: int = 0) -> bytes:
    """The smallest sealed block there can be."""
    table = table_of([PlaneId(0, Half.K, 0, 2, 2)], [Stored(RAW, 0, 2, 0, 0)])
    parent = keys.keys[block - 1][:PARENT_BYTES] if block else bytes(PARENT_BYTES)
    header = Header(
        namespace, keys.keys[block], keys.fingerprint, 64, table, bytes(16), 1, 0, 64, expires=expires, parent=parent
    )  # fmt: skip
    return header.pack() + bytes(64)


def write(folder: Path, namespace: bytes, key: bytes, content: bytes) -> None:
    place = folder / place_of(namespace, key)
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o600)
    except FileNotFoundError:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, content)
    os.close(descriptor)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def starts(folder: Path, files: int) -> None:
    """Writes so many blocks, whole, over, damaged and of another version, and starts a store on them."""
    folder.mkdir(mode=0o700)
    namespace, chains = namespace_id("a"), [chain_of(number) for number in range(files // CHAIN)]
    for keys in chains:
        for block in range(CHAIN):
            write(folder, namespace, keys.keys[block], packed(namespace, keys, block))
    over, damaged, newer = chain_of(1 << 20), chain_of((1 << 20) + 2), chain_of((1 << 20) + 4)
    for block in range(CHAIN):
        write(folder, namespace, over.keys[block], packed(namespace, over, block, expires=1000))
        write(folder, namespace, damaged.keys[block], packed(namespace, damaged, block)[:-1])
        content = bytearray(packed(namespace, newer, block))
        content[4] += 1  # the version, and so the checksum does not hold, either
        write(folder, namespace, newer.keys[block], bytes(content))
    gc.collect()
    before, tiered = resident(), compose(tables(folder))
    store = tiered.namespace("a")
    with ThreadPoolExecutor(1) as threads:
        begun = time.monotonic()
        opening = threads.submit(tiered.open)
        asked = asks(tiered, chains[:8], opening.done)
        opening.result()
        took = time.monotonic() - begun
    try:
        held = resident() - before
        print(f"\n{files} files: start {took:.2f} s, {held // files} bytes of memory a file, {asked} lookups meanwhile")
        assert took < SECONDS_A_FILE * files + SECONDS_AT_ALL and held < BYTES_A_FILE * files + BYTES_AT_ALL
        assert all(store.lookup(keys).ready == CHAIN for keys in chains)
        assert [store.lookup(keys).ready for keys in (over, damaged, newer)] == [0] * 3
        figures = store.stats()
        assert total(figures, "tier_blocks", tier="disk") == files
        assert total(figures, "tier_removed", tier="disk", why="ttl") == CHAIN
        assert total(figures, "tier_removed", tier="disk", why="corrupt") == 2 * CHAIN
        assert total(figures, "corruptions", tier="disk") == 2 * CHAIN
    finally:
        tiered.close()


def asks(tiered: TieredStore, chains: Sequence[Chain], over: Callable[[], bool]) -> int:
    """Looks prompts up until `over`: each is all there or not there at all, and every answer comes at once."""
    asked = 0
    while not over():
        for keys in chains:
            begun = time.monotonic()
            found = tiered.namespace("a").lookup(keys, timeout=0.5)
            assert time.monotonic() - begun < 0.5 + LATE
            assert found == Lookup(0, ()) or found.ready == CHAIN
            asked += 1
        tiered.lower[0].get_many(namespace_id("a"), chains[0].keys[:1], Deadline.after(0.5))
        time.sleep(0.01)
    return asked


def test_d9_a_store_answers_while_it_starts_and_leaves_what_it_cannot_use(tmp_path: Path) -> None:
    starts(tmp_path / "blocks", 10 * CHAIN)


@pytest.mark.slow
def test_d9_a_store_starts_on_a_hundred_thousand_files(tmp_path: Path) -> None:
    starts(tmp_path / "blocks", 500 * CHAIN)
