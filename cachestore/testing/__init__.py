"""Conformance suites: what stores, codecs, cold tiers, policies and predictors must do, ours and those of others.

Subclass a suite in a test module and give it what its docstring asks for. What it demands is what the contract
promises, and nothing besides.
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
from cachestore.testing.codecs import CodecTests, bf16_normal
from cachestore.testing.durable_tiers import DurableTierTests
from cachestore.testing.evictions import EvictionTests
from cachestore.testing.lossy import LossyCodecTests
from cachestore.testing.memories import MemoryTests
from cachestore.testing.pins import PinTests
from cachestore.testing.provisional import FollowingTests, ProvisionalTests
from cachestore.testing.puts import PutTests
from cachestore.testing.reads import ReadTests
from cachestore.testing.schedulings import PredictorTests, SchedulingTests
from cachestore.testing.sealed import sealed_block
from cachestore.testing.sums import check_sums
from cachestore.testing.tiers import TierTests


class StoreTests(ReadTests, ProvisionalTests, PutTests, PinTests):
    """All that `cachestore.store.base.Store` promises. Subclasses give the fixture `store`."""


__all__ = [
    "CodecTests",
    "DurableTierTests",
    "EvictionTests",
    "FollowingTests",
    "LossyCodecTests",
    "MemoryTests",
    "PredictorTests",
    "SchedulingTests",
    "StoreTests",
    "TierTests",
    "bf16_normal",
    "check_sums",
    "plans_of",
    "random_blocks",
    "random_planes",
    "random_prompt",
    "random_tokens",
    "same",
    "sealed_block",
    "small_spec",
    "write_blocks",
]
