"""What may happen between the moments at which a reader looks."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore.block import WHOLE
from cachestore.hashing import Chain, chain
from cachestore.seal import CorruptBlock
from cachestore.service.stream.reading import _sent
from cachestore.store import granting
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_blocks, random_tokens, small_spec

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
