"""transformers: the prompts of a batch, without their padding."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cachestore.errors import InvalidArgument


class Row(NamedTuple):
    """One prompt of a batch: the columns `first` up to the end hold its tokens, those before are padding."""

    first: int
    tokens: list[int]


def rows_of(input_ids: Tensor, mask: Tensor | None, held: int | None = None) -> list[Row]:
    """The rows, without padding, of the first `held` columns; columns that the mask lacks at its end are tokens.

    InvalidArgument for what is no batch, or is padded elsewhere than before its tokens and behind them.
    """
    if not isinstance(input_ids, Tensor):
        raise InvalidArgument(f"input_ids must be a tensor [rows, columns], got {type(input_ids).__name__}")
    if input_ids.ndim != 2 or not input_ids.numel():
        raise InvalidArgument(f"input_ids must be [rows, columns], got {list(input_ids.shape)}")
    if mask is None and len(input_ids) > 1:
        raise InvalidArgument("attention_mask: give the tokenizer's for more than one row, or padding would be tokens")
    whole = torch.ones_like(input_ids)
    if mask is not None:
        if mask.ndim != 2 or len(mask) != len(input_ids) or mask.shape[1] > input_ids.shape[1]:
            raise InvalidArgument(f"attention_mask {list(mask.shape)} does not fit input_ids {list(input_ids.shape)}")
        whole[:, : mask.shape[1]] = mask
    return [
        Row(first, tokens[first : min(end, len(tokens) if held is None else held)])
        for tokens, (first, end) in zip(input_ids.tolist(), _spans(whole.tolist()), strict=True)
    ]


def _spans(mask: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Where the tokens of each row begin and end."""
    for index, row in enumerate(mask):
        first, count = next((at for at, told in enumerate(row) if told), len(row)), sum(map(bool, row))
        if not count or not all(row[first : first + count]):
            raise InvalidArgument(f"attention_mask: row {index} must be padding, then tokens in one piece")
        yield first, first + count
