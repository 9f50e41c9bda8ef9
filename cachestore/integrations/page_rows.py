"""Pages and blocks in host memory as rows: a row is K or V of one head and token.

numpy copies a row at once, where torch goes by its numbers, and by an index a good deal slower still. An engine's pages
come as `[pages, kv_heads, page_tokens, halves]`, blocks as `[blocks, pages of a block, kv_heads, page_tokens, halves]`:
one array if K and V are equally wide, else one for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch import Tensor

from cachestore.block import Slot
from cachestore.engine.page_memory import PageMemory

Rows = NDArray[np.void]


class Pair(NamedTuple):
    """An engine's pages and blocks, of K and V or of one of them."""

    pages: Rows
    blocks: Rows


class Stretch(NamedTuple):
    """Pages that lie at equal distances on both sides."""

    target: slice
    source: slice


class Held(NamedTuple):
    """An engine's pages that hold one block, of which the first `skip` are left as they are."""

    pages: Sequence[int]
    skip: int
    stretches: Sequence[Stretch]
    """The way into the others, out of a block."""

    @classmethod
    def of(cls, pages: Sequence[int], skip: int = 0) -> "Held":
        return cls(pages, skip, stretches(pages[skip:], range(skip, len(pages))))


class Run(NamedTuple):
    """Slots that lie at equal distances on both sides: their pairs have an axis for them behind that of the pages. No
    pairs where torch copies."""

    slots: range
    pairs: tuple[Pair, ...]


@dataclass(eq=False)
class Beside:
    """The pages of an engine's `caches`, `per_block` for a block, and the blocks in `memory`."""

    caches: Sequence[Tensor]
    memory: PageMemory
    per_block: int
    slots: list[tuple[Pair, ...]] = field(init=False)
    """By slot; none where rows are not in one piece in host memory, and torch copies them."""
    runs: list[Run] = field(init=False)
    """The same, with as many slots at once as can be: a copy of a few pages is soon over, and each waits for the
    interpreter lock behind it."""

    def __post_init__(self) -> None:
        self.slots = []
        for number, (cache, slot) in enumerate(zip(self.caches, self.memory.spec.slots, strict=True)):
            pages = _engine_rows(cache, slot)
            blocks = _memory_rows(self.memory, number, self.per_block) if pages else ()
            self.slots.append(tuple(map(Pair, pages, blocks)))
        self.runs = [Run(run, _stacked(self.slots, run)) for run in _alike(self.slots)]


def stretches(targets: Sequence[int], sources: Sequence[int]) -> list[Stretch]:
    """How these pages are copied to those, in few copies: engines hand pages out upwards or downwards."""
    found, first = [], 0
    for end in range(1, len(targets) + 1):
        if end < len(targets) and all(_equidistant(pages[first : end + 1]) for pages in (targets, sources)):
            continue
        found.append(Stretch(_slice(targets[first:end]), _slice(sources[first:end])))
        first = end
    return found


def _equidistant(pages: Sequence[int]) -> bool:
    """Whether the last of these is as far from the one before as the others are."""
    return len(pages) < 3 or pages[-1] - pages[-2] == pages[1] - pages[0]


def _slice(pages: Sequence[int]) -> slice:
    """These, which are equally far from each other."""
    step = pages[1] - pages[0] if len(pages) > 1 else 1
    end = pages[-1] + step
    return slice(pages[0], end if end >= 0 else None, step)


def copy_pages(target: Rows, source: Rows, found: Sequence[Stretch]) -> None:
    """Copies pages of `source` to pages of `target`; of both they are the first axis."""
    for there, here in found:
        np.copyto(target[there], source[here])


def _engine_rows(cache: Tensor, slot: Slot) -> tuple[Rows, ...]:
    """An engine's pages of one slot, in place; none if they are on a device or a row is not in one piece."""
    if cache.device.type != "cpu" or cache.stride(-1) != 1:
        return ()
    if slot.key_dim == slot.value_dim:
        return (_rows(cache, slot.key_dim),)
    halves = (cache[..., : slot.key_dim], slot.key_dim), (cache[..., slot.key_dim :], slot.value_dim)
    return tuple(_rows(half, dim) for half, dim in halves if dim)


def _memory_rows(memory: PageMemory, slot: int, per_block: int) -> tuple[Rows, ...]:
    """One slot of all blocks in `memory`, in place, cut into the `per_block` pages of an engine."""
    heads, found = memory.spec.slots[slot].kv_heads, []
    for place in memory.heads(slot):
        if place.shape[-1]:
            rows = _rows(place, place.shape[-1])[..., 0]
            cut = rows.reshape(len(rows), -1, heads, per_block, rows.shape[-1] // per_block)
            found.append(cut.transpose(0, 3, 2, 4, 1))
    return tuple(found)


def _rows(numbers: Tensor, dim: int) -> Rows:
    """The last axis as rows of `dim` numbers."""
    rows: Rows = numbers.view(torch.uint8).numpy().view(np.dtype((np.void, dim * numbers.element_size())))
    return rows


def _alike(slots: Sequence[tuple[Pair, ...]]) -> list[range]:
    """All slots, in runs of those that lie at equal distances."""
    found: list[range] = []
    step: tuple[int, ...] | None = None
    for number, pairs in enumerate(slots):
        further = _distances(slots[number - 1], pairs) if found else None
        if further is None or (len(found[-1]) > 1 and further != step):
            found.append(range(number, number + 1))
        else:
            found[-1] = range(found[-1].start, number + 1)
        step = further
    return found


def _distances(here: tuple[Pair, ...], there: tuple[Pair, ...]) -> tuple[int, ...] | None:
    """Bytes from each array of one slot to that of another; None if they are not alike."""
    if len(here) != len(there):
        return None
    arrays = list(zip(chain.from_iterable(here), chain.from_iterable(there), strict=True))
    if any(_form(one) != _form(other) for one, other in arrays):
        return None
    return tuple(other.ctypes.data - one.ctypes.data for one, other in arrays)


def _form(rows: Rows) -> tuple[object, ...]:
    return rows.dtype, rows.shape, rows.strides


def _stacked(slots: Sequence[tuple[Pair, ...]], run: range) -> tuple[Pair, ...]:
    """The pairs of these slots as one, in place."""
    first = slots[run.start]
    steps = iter(_distances(first, slots[run.start + 1]) or () if len(run) > 1 else [0] * (2 * len(first)))
    return tuple(Pair(*(_layers(rows, len(run), next(steps)) for rows in pair)) for pair in first)


def _layers(rows: Rows, count: int, step: int) -> Rows:
    """So many arrays like this one, `step` bytes apart, along an axis behind that of the pages."""
    return np.moveaxis(as_strided(rows, (count, *rows.shape), (step, *rows.strides)), 0, -4)
