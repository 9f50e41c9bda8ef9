"""The engine's KV in pages: one tensor for all slots, in which a page is a block in canonical order.

So the bytes of a page are the planes of a block one behind the other: a store reads blocks straight into pages and
takes them straight out of them. Within a page, K or V of one slot lie as `[kv_heads, block_tokens, head_dim]`.
"""

from dataclasses import dataclass
from itertools import accumulate
from math import gcd

import torch
from torch import Tensor

from cachestore.block import ITEM_BYTES, BlockSpec, Buffer, Half


@dataclass(frozen=True)
class Place:
    """Where one half of one slot lies in a page: `first` is in rows, and a head takes `rows` of them."""

    heads: int
    dim: int
    first: int
    rows: int


class PageMemory:
    """`pages` pages for the KV of `spec`, zeroed."""

    def __init__(self, spec: BlockSpec, pages: int, device: torch.device) -> None:
        self.spec = spec
        self.pages = pages
        self.block_tokens = spec.block_tokens
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self.device = device
        self._dims = [(slot.kv_heads, slot.key_dim, slot.value_dim) for slot in spec.slots]
        # all heads are whole rows, so that one gather of rows serves slots of different widths
        step = gcd(*(dim for _, *dims in self._dims for dim in dims if dim))
        self.row = step * spec.block_tokens
        self._places: dict[tuple[int, Half], Place] = {}
        first = 0
        for index, (heads, *dims) in enumerate(self._dims):
            for half, dim in zip((Half.K, Half.V), dims, strict=True):
                self._places[index, half] = Place(heads, dim, first, dim // step)
                first += heads * (dim // step)
        self.page_rows = first
        self._flat = torch.zeros(pages, first * self.row, dtype=self.dtype, device=device)
        self._rows = self._flat.view(pages * first, self.row)
        ends = accumulate(plane.raw_bytes for plane in spec.planes())
        self._starts = [0, *ends]

    @staticmethod
    def page_bytes(spec: BlockSpec) -> int:
        """Bytes of one page."""
        return sum(plane.raw_bytes for plane in spec.planes())

    def place(self, slot: int, half: Half) -> Place:
        """Where a half of a slot lies."""
        return self._places[slot, half]

    def half(self, slot: int, half: Half) -> Tensor:
        """A view of one half of a slot in all pages: `[pages, kv_heads, block_tokens, dim]`."""
        place = self._places[slot, half]
        start = place.first * self.row
        part = self._flat[:, start : start + place.heads * place.rows * self.row]
        return part.view(self.pages, place.heads, self.block_tokens, place.dim)

    def gather(self, slot: int, half: Half, index: Tensor) -> Tensor:
        """Copies the rows that `index`, flat and relative to the half's first, names: `[rows, row]`."""
        return self._rows[self._places[slot, half].first :].index_select(0, index)

    def copy(self, source: int, target: int) -> None:
        """Makes page `target` equal to page `source`."""
        self._flat[target] = self._flat[source]

    def zero(self, page: int) -> None:
        """Zeroes a page."""
        self._flat[page] = 0

    def blank(self, page: int, tokens: int) -> None:
        """Zeroes what lies behind the first `tokens` tokens of a page."""
        for slot, half in self._places:
            self.half(slot, half)[page, :, tokens:] = 0

    def buffer(self, page: int) -> Buffer:
        """The bytes of a page, in place: what a store's read fills and its put takes. Of host memory only."""
        data: Buffer = self._flat[page].view(torch.uint8).numpy()
        return data

    def planes(self, page: int, first: int, last: int) -> Buffer:
        """The bytes of planes `first` up to, not including, `last` of a page; in place where that is host memory."""
        item = ITEM_BYTES[self.spec.dtype]
        start, end = self._starts[first] // item, self._starts[last] // item
        data: Buffer = self._flat[page, start:end].cpu().view(torch.uint8).numpy()
        return data
