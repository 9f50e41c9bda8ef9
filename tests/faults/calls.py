"""Calls whose outcome is a value or one of our errors, in time, and never a wrong byte."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cachestore.block import Block
from cachestore.errors import CacheStoreError, InternalError
from cachestore.hashing import Chain
from cachestore.store.base import Durability
from cachestore.testing import plans_of, write_blocks
from tests.faults.values import right

T = TypeVar("T")

LATE = 1.0
"""Seconds after its deadline by which a call must have ended; the promise is 0.25, the rest is for a busy machine."""


def outcome(call: Callable[[], T], timeout: float) -> T | CacheStoreError:
    """What `call` gave or raised; AssertionError if it was late, or if the error is a bug."""
    begun = time.monotonic()
    result: T | CacheStoreError
    try:
        result = call()
    except CacheStoreError as error:
        result = error
    took = time.monotonic() - begun
    assert took < timeout + LATE, f"took {took:.2f} of {timeout} s: {result}"
    assert not isinstance(result, InternalError), result
    return result


def reading(store: Any, keys: Chain, timeout: float = 10.0, **options: Any) -> int | CacheStoreError:
    """How many blocks a read gave; all of them are right, and lead the chain."""

    def call() -> int:
        with store.read(keys, timeout=timeout, **options) as blocks:
            got = [block for block, _ in blocks]
        assert [block.key for block in got] == list(keys.keys[: len(got)])
        assert all(map(right, got)), "wrong bytes"
        return len(got)

    return outcome(call, timeout)


def putting(
    store: Any, keys: Chain, blocks: Sequence[Block], timeout: float = 10.0, **options: Any
) -> list[str] | CacheStoreError:
    """What became of each block."""

    def call() -> list[str]:
        with store.put(keys.fingerprint, plans_of(blocks), timeout=timeout, **options) as put:
            write_blocks(put, blocks)
            put.commit()
            return [str(answer.status) for answer in put.answers]

    return outcome(call, timeout)


def durably(store: Any, keys: Chain, blocks: Sequence[Block], timeout: float = 10.0) -> list[str] | CacheStoreError:
    """What became of each block of a durable put."""
    return putting(store, keys, blocks, timeout, durability=Durability.DURABLE)


def heals(call: Callable[[], object], within: float = 5.0) -> float:
    """Seconds until `call` raises no more; AssertionError after `within`."""
    begun = time.monotonic()
    while True:
        try:
            call()
            return time.monotonic() - begun
        except CacheStoreError:
            assert time.monotonic() < begun + within, f"not healed within {within} s"
            time.sleep(0.02)


def heals_when(holds: Callable[[], object], within: float = 10.0) -> None:
    """Waits until `holds` says yes."""
    until = time.monotonic() + within
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)
