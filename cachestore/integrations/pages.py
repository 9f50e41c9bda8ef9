"""Engine pages that hold K and V of a head side by side, and canonical blocks: bytes from one to the other.

A layer's cache is `[pages, kv_heads, page_tokens, key_dim + value_dim]`, in any order of strides. A block is several
pages long, never a part of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cachestore.block import BlockSpec, Half
from cachestore.engine.page_memory import PageMemory
from cachestore.errors import ConfigError, Mismatch
from cachestore.integrations.page_rows import Beside, Held, copy_pages, stretches

Write = Callable[[int, int, Tensor, Tensor], None]
"""How an engine writes K and V of a page's tokens, each `[tokens, kv_heads, dim]`: slot, page, K, V."""


@dataclass(frozen=True)
class EnginePages:
    """The caches of an engine's layers, one for each slot of `spec`, with pages of `page_tokens` tokens.

    ConfigError, naming the layer, for caches that are not what the spec says.
    """

    spec: BlockSpec
    caches: Sequence[Tensor]
    page_tokens: int

    def __post_init__(self) -> None:
        if self.spec.block_tokens % self.page_tokens:
            raise ConfigError(
                f"block_tokens = {self.spec.block_tokens} must be a multiple of the engine's {self.page_tokens} tokens "
                "a page"
            )
        if len(self.caches) != len(self.spec.slots):
            raise ConfigError(f"the engine has {len(self.caches)} caches, its model {len(self.spec.slots)} slots")
        for layer, (cache, slot) in enumerate(zip(self.caches, self.spec.slots, strict=True)):
            wanted = (slot.kv_heads, self.page_tokens, slot.key_dim + slot.value_dim)
            if tuple(cache.shape[1:]) != wanted or str(cache.dtype) != f"torch.{self.spec.dtype}":
                raise ConfigError(
                    f"layer {layer}: its cache is {list(cache.shape)} of {cache.dtype}, and not [pages, "
                    f"{', '.join(map(str, wanted))}] of {self.spec.dtype} as its model says"
                )

    @property
    def per_block(self) -> int:
        """How many pages a block takes."""
        return self.spec.block_tokens // self.page_tokens

    def take(self, slot: int, pages: Sequence[int], memory: PageMemory, block: int) -> None:
        """Copies one slot of a block out of the engine's pages into page `block` of `memory`."""
        if pairs := self._beside(memory).slots[slot]:
            for held, blocks in pairs:
                copy_pages(blocks[block], held, stretches(range(len(pages)), pages))
            return
        found = self.caches[slot][self._index(slot, pages)]
        for half, content in self._contents(slot):
            canonical = self._canonical(slot, half, memory, block)
            canonical.copy_(found[..., content].transpose(0, 1), non_blocking=True)

    def give(self, slot: int, pages: Sequence[int], memory: PageMemory, block: int, skip: int = 0) -> None:
        """Copies one slot of a block from page `block` of `memory` into the engine's pages, not the first `skip`."""
        if pairs := self._beside(memory).slots[slot]:
            for held, blocks in pairs:
                copy_pages(held, blocks[block], Held.of(pages, skip).stretches)
            return
        if skip >= len(pages):
            return
        cache, index = self.caches[slot], self._index(slot, pages[skip:])
        for half, content in self._contents(slot):
            found = self._canonical(slot, half, memory, block)[:, skip:].transpose(0, 1)
            cache[index, :, :, content] = found.to(cache.device, non_blocking=True)

    def give_all(self, held: Held, memory: PageMemory, block: int) -> None:
        """Copies all slots of a block from page `block` of `memory` into the engine's pages, as `give` does one."""
        for slots, pairs in self._beside(memory).runs:
            for pages, blocks in pairs:
                copy_pages(pages, blocks[block], held.stretches)
            for slot in () if pairs else slots:
                self.give(slot, held.pages, memory, block, held.skip)

    def _beside(self, memory: PageMemory) -> Beside:
        """The engine's pages and those of `memory`, which is remembered."""
        if memory not in self._known:
            self._known[memory] = Beside(self.caches, memory, self.per_block)
        return self._known[memory]

    @cached_property
    def _known(self) -> dict[PageMemory, Beside]:
        return {}

    def _contents(self, slot: int) -> tuple[tuple[Half, slice], ...]:
        """Where K and V are in the content of the engine's pages."""
        split = self.spec.slots[slot].key_dim
        return (Half.K, slice(0, split)), (Half.V, slice(split, None))

    def _canonical(self, slot: int, half: Half, memory: PageMemory, block: int) -> Tensor:
        """`[kv_heads, pages, page_tokens, dim]`, in place."""
        whole = memory.half(slot, half)[block]
        return whole.view(whole.shape[0], self.per_block, self.page_tokens, whole.shape[-1])

    def _index(self, slot: int, pages: Sequence[int]) -> slice | Tensor:
        """Pages that follow each other are seen in place, and copied once instead of twice."""
        if list(pages) == list(range(pages[0], pages[0] + len(pages))):
            return slice(pages[0], pages[0] + len(pages))
        return torch.tensor(pages, device=self.caches[slot].device)


def prove(pages: EnginePages, slot: int, page: int, write: Write) -> None:
    """Writes known K and V into `page` as the engine does, with `write`, and reads them as a block: they must be equal.

    Two layouts may have the same shape, and a mix-up between them gives wrong KV without any error. Then the same by
    the other way. The page is zero afterwards. Mismatch names the layer.
    """
    shape, tokens = pages.spec.slots[slot], pages.page_tokens
    cache = pages.caches[slot]
    numbers = torch.Generator().manual_seed(slot)
    # whole numbers below 256 are exact in every type that KV has here
    key = torch.randint(0, 256, (tokens, shape.kv_heads, shape.key_dim), generator=numbers).to(cache.dtype)
    value = torch.randint(0, 256, (tokens, shape.kv_heads, shape.value_dim), generator=numbers).to(cache.dtype)
    single = BlockSpec("proof", "proof", pages.spec.dtype, (shape,), 1, block_tokens=tokens)
    one, memory = EnginePages(single, [cache], tokens), PageMemory(single, 1, torch.device("cpu"))
    before = cache[page].clone()
    try:
        write(slot, page, key.to(cache.device), value.to(cache.device))
        one.take(0, [page], memory, 0)
        _synchronize(cache)
        alike = torch.equal(memory.half(0, Half.K)[0], key.transpose(0, 1))
        alike = alike and torch.equal(memory.half(0, Half.V)[0], value.transpose(0, 1))
        written = cache[page].clone()
        cache[page].zero_()
        one.give(0, [page], memory, 0)
        if not alike or not torch.equal(cache[page], written):
            raise Mismatch(
                f"layer {slot}: known K and V written by the engine are read as something else, so its page layout "
                "is not the one it names; the store is not used"
            )
    finally:
        cache[page] = before


def _synchronize(cache: Tensor) -> None:
    if cache.is_cuda:
        torch.cuda.synchronize(cache.device)
