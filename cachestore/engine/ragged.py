"""One step's batch: tokens of many sequences packed one behind the other, and which pages each of them sees.

Sequences that compute one token each are grouped by length, so that one gather and one attention serve a group; longer
pieces stand alone. What follows from the lengths is worked out once a step, not once a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cachestore.block import Attention, Slot
from cachestore.engine.page_memory import Place

PADDING = 0.25
"""The part of a group's gather that may be padding, before another group is opened."""


class Reach(NamedTuple):
    """How far back a query sees: the attention kind and window of a slot."""

    attention: Attention
    window: int

    @classmethod
    def of(cls, slot: Slot) -> "Reach":
        return cls(slot.attention, slot.window)

    def first(self, position: int) -> int:
        """The first position that a query at `position` sees."""
        if self.attention is Attention.SLIDING:
            return max(0, position - self.window + 1)
        return position // self.window * self.window if self.attention is Attention.CHUNKED else 0


@dataclass(frozen=True)
class Row:
    """One sequence's share of a step: `tokens` behind its first `start`, whose KV lies or will lie in `pages`.

    With `write` False the KV of the tokens is there already, and they are only queried.
    """

    tokens: Sequence[int]
    start: int
    pages: list[int]
    write: bool = True

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass
class Scope:
    """What the queries of a group see: blocks of `table`, cut to positions `low` up to `high` of these, and a mask.

    `table` is [sequences, blocks]; `mask`, to be added to scores, is [sequences, 1, queries, high - low], or None
    where all see all. `fresh` says that all a lone piece sees is in the piece itself.
    """

    table: Tensor
    low: int
    high: int
    mask: Tensor | None
    fresh: bool = False
    _index: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def index(self, place: Place, page_rows: int) -> Tensor:
        """The rows to gather, in the order [sequence, head, block]."""
        shape = (place.heads, place.rows, page_rows)
        if shape not in self._index:
            pages = self.table[:, None, :, None] * page_rows
            heads = torch.arange(place.heads * place.rows, device=self.table.device)
            self._index[shape] = (pages + heads.view(1, place.heads, 1, place.rows)).flatten()
        return self._index[shape]


class Group:
    """Rows that are attended together, at `tokens` of the packed order: some of one token each, or one longer piece."""

    def __init__(
        self, rows: list[Row], first: int, block_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.rows = rows
        self.tokens = slice(first, first + sum(len(row.tokens) for row in rows))
        self._size = block_tokens
        self._dtype = dtype
        self._device = device
        self._scopes: dict[Reach, Scope] = {}

    def scope(self, reach: Reach) -> Scope:
        """What these rows see in a slot of that reach."""
        if reach not in self._scopes:
            self._scopes[reach] = self._scope(reach)
        return self._scopes[reach]

    def _scope(self, reach: Reach) -> Scope:
        size = self._size
        firsts = [reach.first(row.start) for row in self.rows]
        tables = [row.pages[first // size : -(-row.end // size)] for row, first in zip(self.rows, firsts, strict=True)]
        width = max(map(len, tables))
        # a sequence's own page as padding: masked, and sure to be numbers
        padded = [[*table, *table[:1] * (width - len(table))] for table in tables]
        lows = [first % size for first in firsts]
        highs = [row.end - first // size * size for row, first in zip(self.rows, firsts, strict=True)]
        low, high = min(lows), max(highs)
        table, row = torch.tensor(padded, device=self._device), self.rows[0]
        if len(row.tokens) == 1:
            return Scope(table, low, high, self._mask(lows, highs, low, high))
        fresh = row.start == 0 and reach.first(row.end - 1) == 0
        return Scope(table, low, high, self._piece(reach, row, firsts[0]), fresh)

    def _mask(self, lows: list[int], highs: list[int], low: int, high: int) -> Tensor | None:
        """[sequences, 1, 1, high - low], for one query a sequence."""
        if min(highs) == high and max(lows) == low:
            return None
        at = torch.arange(low, high)
        seen = (at >= torch.tensor(lows)[:, None]) & (at < torch.tensor(highs)[:, None])
        return self._added(seen)[:, None, None]

    def _piece(self, reach: Reach, row: Row, first: int) -> Tensor:
        """[1, 1, queries, keys] for one piece of several queries."""
        keys, queries = torch.arange(first, row.end), torch.arange(row.start, row.end)[:, None]
        seen = keys <= queries
        if reach.attention is Attention.SLIDING:
            seen &= keys > queries - reach.window
        elif reach.attention is Attention.CHUNKED:
            seen &= keys >= queries // reach.window * reach.window
        return self._added(seen)[None, None]

    def _added(self, seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self._dtype)
        return mask.masked_fill_(~seen, float("-inf")).to(self._device)


def _grouped(rows: list[tuple[int, Row]], block_tokens: int) -> list[list[tuple[int, Row]]]:
    """Rows of one token each, by length, such that not much of a group is padding."""
    groups: list[list[tuple[int, Row]]] = []
    room = 0
    for item in sorted(rows, key=lambda item: -item[1].end):
        blocks = -(-item[1].end // block_tokens)
        if not groups or blocks < room:
            groups.append([])
            room = int(blocks * (1 - PADDING))
        groups[-1].append(item)
    return groups


class Batch:
    """The rows of a step in packed order: `ids` and `positions` are [tokens].

    `last` has for every row in the order given the place of its last token among them.
    """

    def __init__(self, rows: Sequence[Row], block_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        numbered = list(enumerate(rows))
        ones = [item for item in numbered if len(item[1].tokens) == 1]
        longer = [[item] for item in numbered if len(item[1].tokens) > 1]
        packed = [*_grouped(ones, block_tokens), *longer]
        order = [item for group in packed for item in group]
        starts = [0, *accumulate(len(row.tokens) for _, row in order)]
        ends = {number: end - 1 for (number, _), end in zip(order, starts[1:], strict=True)}
        self._rows = [row for _, row in order]
        self._size = block_tokens
        self._device = device
        self.last = [ends[number] for number in range(len(rows))]
        self.groups: list[Group] = []
        for group in packed:
            first = self.groups[-1].tokens.stop if self.groups else 0
            self.groups.append(Group([row for _, row in group], first, block_tokens, dtype, device))

    @cached_property
    def ids(self) -> Tensor:
        return torch.tensor([token for row in self._rows for token in row.tokens], device=self._device)

    @cached_property
    def positions(self) -> Tensor:
        return torch.tensor([at for row in self._rows for at in range(row.start, row.end)], device=self._device)

    @cached_property
    def written(self) -> tuple[Tensor | None, Tensor, Tensor]:
        """Which packed tokens are written (None: all), and to which page and place in it: [tokens] each."""
        pages = np.concatenate([self._pages(row) for row in self._rows])
        places = self.positions % self._size
        if all(row.write for row in self._rows):
            return None, torch.from_numpy(pages).to(self._device), places
        kept = np.flatnonzero(np.concatenate([np.full(len(row.tokens), row.write) for row in self._rows]))
        which = torch.from_numpy(kept).to(self._device)
        return which, torch.from_numpy(pages[kept]).to(self._device), places[which]

    def _pages(self, row: Row) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        first = row.start // self._size
        pages = np.asarray(row.pages[first : -(-row.end // self._size)], dtype=np.int64)
        return pages[np.arange(row.start, row.end) // self._size - first]
