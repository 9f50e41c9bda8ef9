"""Blocks of a spec whose recipe rounds: once full, a page holds what readers of its block will get.

A token sees the blocks before its own rounded, and its own exactly, in whichever steps it is computed and wherever the
blocks before came from. So a step takes no sequence beyond the end of a block, and the token behind a full block is
drawn with that block rounded, as after a read. What is put are the codes that the page was rounded to: to code rounded
values again may round them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cachestore.block import BlockSpec
from cachestore.codecs.base import Codec, Encoded
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.pages import decode_pages, encode_pages
from cachestore.engine.page_memory import PageMemory
from cachestore.errors import Mismatch


@dataclass(frozen=True)
class Rounding:
    """Rounds pages of `memory` as `codec` does."""

    memory: PageMemory
    codec: Codec

    @classmethod
    def of(cls, spec: BlockSpec, memory: PageMemory) -> "Rounding | None":
        """As the spec's recipe says; None where values stay exact. InvalidArgument if they cannot be rounded so."""
        codec = codec_for(spec)
        return cls(memory, codec) if codec is not None else None

    def settle(self, pages: Sequence[int]) -> list[list[Encoded]]:
        """Rounds full pages in place, on their device; the planes of each as they are stored."""
        if not pages:
            return []
        memory = self.memory
        pools = memory.pools(range(len(memory.spec.slots)))
        there = torch.tensor(pages, device=memory.device)
        coded = encode_pages(self.codec, memory.spec, pools, there, method=memory.kernels)
        if not all(decode_pages(memory.spec, pools, there, coded, method=memory.kernels)):
            raise Mismatch(f"spec.recipe = {memory.spec.recipe!r}: a page did not take what it was rounded to")
        return coded
