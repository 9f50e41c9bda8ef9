"""What may happen between the moments at which a reader looks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.block import WHOLE
from cachestore.hashing import Chain, chain
from cachestore.seal import CorruptBlock
from cachestore.service.stream.reading import _sent
from cachestore.store import granting
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_blocks, random_tokens, same, small_spec
from cachestore.tiers.disk import DiskTier
from cachestore.tiers.redis import RedisTier

SPEC = small_spec()
TOKENS = random_tokens(2 * SPEC.block_tokens, seed=3)
KEYS, BLOCKS = chain(SPEC, TOKENS), random_blocks(SPEC, TOKENS, 3)


def test_a_block_that_was_replaced_by_one_being_written_is_not_leased(
    open_store: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store().namespace("a")
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    open_puts: list[Any] = []
    real = granting.locate

    def locate(*arguments: Any) -> Any:
        located = real(*arguments)
        if not open_puts:
            store.delete(KEYS)
            open_puts.append(store.put(KEYS.fingerprint, plans_of(BLOCKS)))
        return located

    monkeypatch.setattr(granting, "locate", locate)
    lease = store.lease(KEYS)
    assert lease.blocks == 0
    store.release(lease)
    open_puts[0].abort()


@pytest.mark.parametrize("joined", [False, True])
def test_memory_that_is_taken_back_while_it_is_sent_is_noticed(
    open_store: Callable[..., TieredStore], joined: bool
) -> None:
    store = open_store().namespace("a")
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    reading = store.open(Chain(KEYS.fingerprint, KEYS.keys[:1]))
    frames = _sent(next(iter(reading)), WHOLE, 256, 0, joined=joined)
    next(frames)
    next(frames)
    store.release(reading.lease)
    store.delete(KEYS)
    with pytest.raises(CorruptBlock, match="stale"):
        list(frames)


def test_what_was_fetched_ahead_and_deleted_then_does_not_come_back(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    cold = [disk, {"name": "redis", "url": "embedded", "capacity": "8MiB"}]
    tiered = open_tiers([{"name": "cpu", "capacity": "1MiB"}, *cold], {"prefetch": False})
    store = tiered.namespace("a")
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    assert tiered.settle() and store.clear("cpu") == 2
    # so that both are fetched together from now on
    with store.read(KEYS) as reading:
        assert len(list(reading)) == 2
    assert tiered.settle() and store.clear("cpu") == 2
    (path,) = [path for path in (tmp_path / "blocks").rglob(KEYS.keys[0].hex()) if path.is_file()]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    batches: list[int] = []
    get_many, present = DiskTier.get_many, RedisTier.present

    def counted(tier: DiskTier, namespace: bytes, keys: Any, deadline: Any) -> Any:
        batches.append(len(keys))
        return get_many(tier, namespace, keys, deadline)

    def deleted_meanwhile(tier: RedisTier, *arguments: Any) -> list[bool]:
        there = present(tier, *arguments)
        assert store.delete(Chain(KEYS.fingerprint, KEYS.keys[1:])) == 1
        return there

    with monkeypatch.context() as patched, store.read(KEYS) as reading:
        patched.setattr(DiskTier, "get_many", counted)
        patched.setattr(RedisTier, "present", deleted_meanwhile)
        found = next(iter(reading))
        assert same(found.block, BLOCKS[0]) and batches[0] == 2
        patched.undo()
        list(reading)
    assert tiered.settle() and store.lookup(KEYS).ready == 1
