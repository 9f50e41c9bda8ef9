"""Conformance suites: what a store must do, for ours and for those of others.

Subclass `StoreTests` in a test module and give it a fixture `store` that yields an open, empty store. What the suite
demands is what `cachestore.store.base` promises, and nothing besides.
"""

from cachestore.testing.blocks import (
    plans_of,
    random_blocks,
    random_planes,
    random_prompt,
    random_tokens,
    same,
    small_spec,
)
from cachestore.testing.blocks import write_blocks as write_blocks
from cachestore.testing.puts import PutTests
from cachestore.testing.reads import ReadTests
from cachestore.testing.sums import check_sums


class StoreTests(ReadTests, PutTests):
    """All that `cachestore.store.base.Store` promises. Subclasses give the fixture `store`."""


__all__ = [
    "StoreTests",
    "check_sums",
    "plans_of",
    "random_blocks",
    "random_planes",
    "random_prompt",
    "random_tokens",
    "same",
    "small_spec",
    "write_blocks",
]
