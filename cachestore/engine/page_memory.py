"""The engine's KV in pages: one tensor for all slots, in which a page is a block in canonical order.

So the bytes of a page are the planes of a block one behind the other: a store reads blocks straight into pages and
takes them straight out of them. Within a page, K or V of one slot lie as `[kv_heads, block_tokens, head_dim]`.
"""

import mmap
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from math import gcd

import numpy as np
import torch
from torch import Tensor

from cachestore.block import ITEM_BYTES, BlockSpec, Buffer, Half
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.page_moves import HostMoves, PageMoves
from cachestore.errors import InvalidArgument
from cachestore.tiers.paging import Paging
from cachestore_kernels.method import Method
from cachestore_kernels.paged import gather, scatter


@dataclass(frozen=True)
class Place:
    """Where heads of a slot lie in a page: `first` is in rows, and each takes `rows` of them."""

    heads: int
    dim: int
    first: int
    rows: int


class PageMemory:
    """`pages` pages for the KV of `spec`, zeroed; of host memory those that are used become resident.

    `moves` brings pages to host memory and back: in place where they lie there, else beside the computation.

    `kernels` says how pages are read in place: by fused kernels on CUDA where Triton is installed; None where torch
    gathers what is seen, which on a CPU is faster than their naive form.
    """

    def __init__(self, spec: BlockSpec, pages: int, device: torch.device) -> None:
        self.spec = spec
        self.pages = pages
        self.block_tokens = spec.block_tokens
        self.dtype: torch.dtype = getattr(torch, spec.dtype)
        self.device = device
        self.kernels: Method | None = "fused" if device.type == "cuda" and find_spec("triton") else None
        self._dims = [(slot.kv_heads, slot.key_dim, slot.value_dim) for slot in spec.slots]
        # all heads are whole rows, so that one gather of rows serves slots of different widths
        step = gcd(*(dim for _, *dims in self._dims for dim in dims if dim))
        self.row = step * spec.block_tokens
        self._places: list[tuple[Place, ...]] = []
        first = 0
        for heads, key_dim, value_dim in self._dims:
            rows = key_dim // step, value_dim // step
            if key_dim == value_dim:
                self._places.append((Place(2 * heads, key_dim, first, rows[0]),))
            else:
                values = Place(heads, value_dim, first + heads * rows[0], rows[1])
                self._places.append((Place(heads, key_dim, first, rows[0]), values))
            first += heads * sum(rows)
        self.page_rows = first
        self._flat = _zeroed(pages, first * self.row, self.dtype, device)
        self._rows = self._flat.view(pages * first, self.row)
        self._heads = [tuple(map(self._view, places)) for places in self._places]
        planes = spec.planes()
        self._starts = [0, *accumulate(plane.raw_bytes for plane in planes)]
        counts = Counter(plane.slot for plane in planes)
        self._slots = [0, *accumulate(counts[slot] for slot in range(len(spec.slots)))]
        self.moves: PageMoves = HostMoves(self) if device.type == "cpu" else DeviceMoves(self)

    @staticmethod
    def page_bytes(spec: BlockSpec) -> int:
        """Bytes of one page."""
        return sum(plane.raw_bytes for plane in spec.planes())

    def places(self, slot: int) -> tuple[Place, ...]:
        """Where a slot's heads lie: those of K and then of V in one place if they are equally wide, else in two."""
        return self._places[slot]

    def heads(self, slot: int) -> tuple[Tensor, ...]:
        """Views of a slot's places in all pages: `[pages, heads, block_tokens, dim]`."""
        return self._heads[slot]

    def half(self, slot: int, half: Half) -> Tensor:
        """A view of one half of a slot in all pages: `[pages, kv_heads, block_tokens, dim]`."""
        views = self._heads[slot]
        halves = views if len(views) == 2 else views[0].chunk(2, 1)
        return halves[half is Half.V]

    def pools(self, slots: range) -> dict[tuple[int, Half], Tensor]:
        """The halves that these slots have."""
        return {
            (slot, half): self.half(slot, half)
            for slot in slots
            for half in (Half.K, Half.V)
            if half is Half.K or self.spec.slots[slot].value_dim
        }

    def gather(self, place: Place, index: Tensor) -> Tensor:
        """Copies the rows that `index`, flat and relative to the place's first, names: `[rows, row]`."""
        return self._rows[place.first :].index_select(0, index)

    def copy(self, source: int, target: int) -> None:
        """Makes page `target` equal to page `source`."""
        self._flat[target] = self._flat[source]

    def zero(self, page: int) -> None:
        """Zeroes a page."""
        self._flat[page] = 0

    def buffer(self, page: int) -> Buffer:
        """The bytes of a page, in place: what a store's read fills and its put takes. InvalidArgument on a device."""
        if self.device.type != "cpu":
            raise InvalidArgument(f"a page on {self.device} has no bytes in host memory; use moves, or planes")
        data: Buffer = self.page(page).numpy()
        return data

    def page(self, number: int) -> Tensor:
        """The bytes of a page where it is: uint8, a view."""
        return self._flat[number].view(torch.uint8)

    def gathered(self, pages: Tensor, slots: range) -> Tensor:
        """A copy of these slots of pages, int64 `[pages]`, on their device: `[pages, numbers]` in canonical order."""
        start, end = self._numbers(*self.span(slots))
        alike = self._alike(slots)
        if alike is None:
            return self._flat[:, start:end].index_select(0, pages)
        return gather(*alike, pages, method=self.kernels).flatten(1)

    def scattered(self, pages: Tensor, blocks: Tensor) -> None:
        """Fills whole pages, int64 `[pages]`, each at most once, with `blocks` on their device: `[pages, numbers]`."""
        slots = range(len(self.spec.slots))
        alike = self._alike(slots)
        if alike is None:
            self._flat[pages] = blocks
            return
        _, heads, tokens, dim = alike[0][0].shape
        scatter(blocks.view(-1, len(slots), 2, heads, tokens, dim), *alike, pages, method=self.kernels)

    def planes(self, page: int, first: int, last: int) -> Buffer:
        """The bytes of planes `first` up to, not including, `last` of a page; in place where that is host memory."""
        start, end = self._numbers(first, last)
        data: Buffer = self._flat[page, start:end].cpu().view(torch.uint8).numpy()
        return data

    def nbytes(self, slots: range) -> int:
        """Bytes of these slots of a page."""
        first, last = self.span(slots)
        return self._starts[last] - self._starts[first]

    def span(self, slots: range) -> tuple[int, int]:
        """The planes of these slots: the first, and the one behind the last."""
        return self._slots[slots.start], self._slots[slots.stop]

    def _numbers(self, first: int, last: int) -> tuple[int, int]:
        """Where planes `first` up to `last` begin and end in a page."""
        item = ITEM_BYTES[self.spec.dtype]
        return self._starts[first] // item, self._starts[last] // item

    def _alike(self, slots: range) -> tuple[list[Tensor], list[Tensor]] | None:
        """K and V of these slots as one launch of a kernel takes them; None where they differ in shape."""
        if len({self._dims[slot] for slot in slots}) > 1 or len(self._places[slots.start]) > 1:
            return None
        return [self.half(slot, Half.K) for slot in slots], [self.half(slot, Half.V) for slot in slots]

    def _view(self, place: Place) -> Tensor:
        start = place.first * self.row
        part = self._flat[:, start : start + place.heads * place.rows * self.row]
        return part.view(self.pages, place.heads, self.block_tokens, place.dim)


def _zeroed(rows: int, numbers: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[rows, numbers]` of zeros."""
    nbytes = rows * numbers * dtype.itemsize
    if device.type != "cpu" or not nbytes:
        return torch.zeros(rows, numbers, dtype=dtype, device=device)
    # torch would write the zeros
    memory = mmap.mmap(-1, nbytes)
    Paging().advise(memory)
    return torch.from_numpy(np.frombuffer(memory, dtype=np.uint8)).view(dtype).view(rows, numbers)
