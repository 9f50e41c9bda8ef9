"""With `[sealing]`, what leaves memory is encrypted, and opens with its key only; what others' keys open stays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest

from cachestore.block import Block
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.seal import ENCRYPTED, Header
from cachestore.store.base import Durability, Store
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks

KEYS, BLOCKS = random_prompt(small_spec(), 3)


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[[dict[int, str]], str]:
    def write(secrets: dict[int, str]) -> str:
        path = tmp_path / "sealing.keys"
        path.touch(mode=0o600)
        path.write_text("".join(f"{epoch} {secret * 32}\n" for epoch, secret in secrets.items()))
        return str(path)

    return write


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., TieredStore]]:
    stores: list[TieredStore] = []

    def start(sealing: dict[str, Any] | None = None, codec: str = "raw") -> TieredStore:
        tiers = [
            {"name": "cpu", "capacity": "1MiB"},
            {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"},
        ]
        stores.append(compose({"tiers": tiers, "codecs": {"name": codec}, **({"sealing": sealing} if sealing else {})}))
        stores[-1].open()
        return stores[-1]

    yield start
    for tiered in stores:
        tiered.close()


def keep(store: Store, blocks: Sequence[Block] = BLOCKS) -> None:
    with store.put(KEYS.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        put.commit()
        assert [answer.tier for answer in put.answers] == ["disk"] * 3


def read(tiered: TieredStore, keys: Chain = KEYS) -> list[Block]:
    with tiered.namespace("a").read(keys) as reading:
        blocks = [block for block, _ in reading]
    assert tiered.settle()
    return blocks


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "blocks").rglob("*")) if path.is_file()]


def test_on_disk_there_is_nothing_to_read(opened: Any, key_file: Any, tmp_path: Path) -> None:
    tiered = opened({"key_file": key_file({1: "ab"})})
    keep(tiered.namespace("a"))
    assert tiered.namespace("a").clear("cpu") == 3
    assert all(map(same, read(tiered), BLOCKS))
    stored = files(tmp_path)
    assert len(stored) == 3 and all(Header.parse(data).flags & ENCRYPTED for data in stored)
    plain = [plane.tobytes()[:64] for block in BLOCKS for plane in block.data]
    assert not any(piece in data for piece in plain for data in stored)


def test_nothing_is_decoded_whose_tag_does_not_hold(
    opened: Any, key_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decompress = lz4.block.decompress
    monkeypatch.setattr(
        lz4.block, "decompress", lambda data, **more: (decoded.append(data), decompress(data, **more))[1]
    )
    tiered = opened({"key_file": key_file({1: "ab"})}, codec="lz4")
    zeros = [replace(block, data=[np.zeros_like(plane) for plane in block.data]) for block in BLOCKS]
    keep(tiered.namespace("a"), zeros)
    tiered.namespace("a").clear("cpu")
    assert all(map(same, read(tiered), zeros)) and decoded
    tiered.namespace("a").clear("cpu")
    for path in (tmp_path / "blocks").rglob("*"):
        if path.is_file():
            data = np.fromfile(path, np.uint8)
            data[Header.parse(data).size :] ^= 1
            data.tofile(path)
    decoded.clear()
    assert read(tiered) == [] and not decoded
    assert total(tiered.namespace("a").stats(), "corruptions", tier="disk", reason="tag") >= 1


def test_after_rotation_old_blocks_open_and_new_ones_have_the_new_epoch(
    opened: Any, key_file: Any, tmp_path: Path
) -> None:
    first = opened({"key_file": key_file({1: "ab"})})
    keep(first.namespace("a"))
    first.close()
    second = opened({"key_file": key_file({1: "ab", 2: "cd"})})
    assert all(map(same, read(second), BLOCKS))
    assert second.namespace("a").delete(KEYS) == 3
    keep(second.namespace("a"))
    assert {Header.parse(data).key_epoch for data in files(tmp_path)} == {2}


@pytest.mark.parametrize("other", [{2: "cd"}, None])
def test_blocks_of_a_key_that_is_not_there_are_misses_counted_and_stay(
    opened: Any, key_file: Any, tmp_path: Path, other: dict[int, str] | None
) -> None:
    first = opened({"key_file": key_file({1: "ab"})})
    keep(first.namespace("a"))
    first.close()
    without = opened({"key_file": key_file(other)} if other else None)
    assert read(without) == []
    assert total(without.namespace("a").stats(), "corruptions", tier="disk", reason="epoch") >= 1
    assert len(files(tmp_path)) == 3
    without.close()
    again = opened({"key_file": key_file({1: "ab", **(other or {})})})
    assert all(map(same, read(again), BLOCKS))


def test_a_plain_block_is_refused_and_stays(opened: Any, key_file: Any, tmp_path: Path) -> None:
    plain = opened()
    keep(plain.namespace("a"))
    plain.close()
    sealing = opened({"key_file": key_file({1: "ab"})})
    assert read(sealing) == []
    assert total(sealing.namespace("a").stats(), "corruptions", tier="disk", reason="plain") >= 1
    assert len(files(tmp_path)) == 3
