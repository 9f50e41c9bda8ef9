"""Conformance suites: what stores, codecs, cold tiers, policies and predictors must do, ours and those of others.

Subclass a suite in a test module and give it what its docstring asks for. What it demands is what the contract
promises, and nothing besides.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from cachestore.testing.sealed import sealed_block
from cachestore.testing.sums import check_sums

if TYPE_CHECKING:
    from cachestore.testing.codecs import CodecTests, bf16_normal
    from cachestore.testing.durable_tiers import DurableTierTests
    from cachestore.testing.evictions import EvictionTests
    from cachestore.testing.lossy import LossyCodecTests
    from cachestore.testing.memories import MemoryTests
    from cachestore.testing.provisional import FollowingTests
    from cachestore.testing.schedulings import PredictorTests, SchedulingTests
    from cachestore.testing.stores import StoreTests
    from cachestore.testing.tiers import TierTests

SUITES = {
    "CodecTests": "codecs",
    "DurableTierTests": "durable_tiers",
    "EvictionTests": "evictions",
    "FollowingTests": "provisional",
    "LossyCodecTests": "lossy",
    "MemoryTests": "memories",
    "PredictorTests": "schedulings",
    "SchedulingTests": "schedulings",
    "StoreTests": "stores",
    "TierTests": "tiers",
    "bf16_normal": "codecs",
}
"""Where each is. They come when they are asked for: a process that wants a few blocks does not wait for torch."""


def __getattr__(name: str) -> Any:
    if name not in SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{SUITES[name]}"), name)


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
