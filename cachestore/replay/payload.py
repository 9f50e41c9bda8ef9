"""Synthetic blocks: what stands for a node of a trace in a real store, and how to tell it from any other."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Block, Buffer, OpaqueSpec
from cachestore.hashing import Chain, opaque_chain
from cachestore.replay.trace import Nodes
from cachestore.store.base import BlockPlan

SPEC = OpaqueSpec("cachestore-replay", "1", "synthetic", "1", "int8", "bytes", 0, 1, "sha256")
BLOCK_TOKENS = 512
SEED = 512
_ODD = 0x9E3779B97F4A7C15
"""Multiplying by an odd number is one to one modulo 2**64, so the blocks of two nodes differ in every word."""


@dataclass(frozen=True)
class Payloads:
    """Blocks of `nbytes` bytes, a multiple of 8, in one plane each; no codec makes them much smaller."""

    nbytes: int

    def chain(self, path: Nodes) -> Chain:
        """The keys of these nodes: like a key, a node stands for its whole prefix."""
        return opaque_chain(SPEC, [node.to_bytes(8, "little") for node in path])

    def plans(self, chain: Chain) -> list[BlockPlan]:
        """What a put of these blocks plans to write."""
        planes = SPEC.planes(self.nbytes)
        return [BlockPlan(key, BLOCK_TOKENS, planes) for key in chain.keys]

    def data(self, node: int) -> Buffer:
        """The bytes of one node: noise that all share, with the node's number mixed into every word."""
        return (self._noise ^ np.uint64(node * _ODD % (1 << 64))).view(np.uint8)

    def holds(self, block: Block, node: int) -> bool:
        """Whether this is the block of this node, to the last bit."""
        return len(block.data) == 1 and np.array_equal(block.data[0], self.data(node))

    @cached_property
    def _noise(self) -> NDArray[np.uint64]:
        return np.frombuffer(np.random.default_rng(SEED).bytes(self.nbytes), dtype=np.uint64)
