"""What attention reads, after its arguments have been checked."""

from dataclasses import dataclass

import torch

MOST_SEQUENCES = 65535
"""What a launch has room for along one of its axes."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True)
class Paged:
    """One slot's KV in pages, and which pages each sequence has."""

    keys: torch.Tensor  # [pages, kv_heads, page_tokens, key_dim]
    values: torch.Tensor  # [pages, kv_heads, page_tokens, value_dim]
    table: torch.Tensor  # int32 [sequences, pages of the longest]
    lengths: torch.Tensor  # int32 [sequences]

    @property
    def tokens(self) -> int:
        """Tokens of a page."""
        return self.keys.shape[2]

    @property
    def capacity(self) -> int:
        """Tokens that the table has room for in each sequence."""
        return self.table.shape[1] * self.tokens


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores are made of queries and keys."""

    scale: float
    window: int | None
    soft_cap: float | None


def check_paged(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor, lengths: torch.Tensor
) -> Paged:
    """The arguments as `Paged`; TypeError or ValueError names the argument at fault and the way out.

    Dtype and width of the pools are the caller's to check: quantised ones differ from the query's.
    """
    if query.dtype not in FLOATS:
        raise TypeError(f"query: float16, bfloat16 or float32 is needed, not {query.dtype}")
    if query.ndim != 3 or 0 in query.shape[1:] or query.stride(2) != 1:
        raise ValueError(f"query: [rows, heads, head_dim] with stride 1 is needed, not {list(query.shape)}")
    for name, pool in (("keys", keys), ("values", values)):
        if pool.ndim != 4 or 0 in pool.shape[1:] or pool.stride(3) != 1:
            raise ValueError(
                f"{name}: a view [pages, kv_heads, page_tokens, head_dim] with stride 1 along head_dim is needed, "
                f"not {list(pool.shape)}, strides {pool.stride()}"
            )
    if keys.shape[:3] != values.shape[:3]:
        raise ValueError(f"values: {list(values.shape[:3])} differ from {list(keys.shape[:3])} of keys")
    if query.shape[1] % keys.shape[1]:
        raise ValueError(f"query: {query.shape[1]} heads are no multiple of the pools' {keys.shape[1]} KV heads")
    if len(lengths) > MOST_SEQUENCES:
        raise ValueError(f"lengths: {MOST_SEQUENCES} sequences at most, not {len(lengths)}; call once per part")
    for name, tensor, ndim in (("table", table, 2), ("lengths", lengths, 1)):
        if tensor.dtype != torch.int32:
            raise TypeError(f"{name}: int32 is needed, not {tensor.dtype}; pass {name}.int()")
        if tensor.ndim != ndim or not tensor.is_contiguous() or len(tensor) != len(lengths):
            raise ValueError(f"{name}: {ndim} contiguous dimensions, sequences first, not {list(tensor.shape)}")
    for name, tensor in (("keys", keys), ("values", values), ("table", table), ("lengths", lengths)):
        if tensor.device != query.device:
            raise ValueError(f"{name}: on {tensor.device}, query on {query.device}; move one of them")
    return Paged(keys, values, table, lengths)


def check_plain(query: torch.Tensor, paged: Paged) -> None:
    """Refuse pools that are not of the query's dtype and width."""
    for name, pool in (("keys", paged.keys), ("values", paged.values)):
        if pool.dtype != query.dtype:
            raise TypeError(f"{name}: the query's dtype {query.dtype} is needed, not {pool.dtype}")
    if paged.keys.shape[3] != query.shape[2]:
        raise ValueError(f"keys: head_dim {paged.keys.shape[3]} differs from the query's {query.shape[2]}")


def check_scoring(scale: float | None, window: int | None, soft_cap: float | None, head_dim: int) -> Scoring:
    """ValueError unless window and soft cap, where given, are positive."""
    if window is not None and window < 1:
        raise ValueError(f"window: 1 or more tokens, or None for all, not {window}")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap: more than 0, or None for no cap, not {soft_cap}")
    return Scoring(head_dim**-0.5 if scale is None else scale, window, soft_cap)


def check_table(paged: Paged) -> None:
    """What only a host can afford to look at: ValueError for lengths beyond the table, or pages outside the pools."""
    for row, (pages, length) in enumerate(zip(paged.table, paged.lengths.tolist(), strict=True)):
        if not 0 <= length <= paged.capacity:
            raise ValueError(f"lengths: {length} of sequence {row} lies outside [0, {paged.capacity}]")
        used = pages[: -(-length // paged.tokens)]
        if ((used < 0) | (used >= len(paged.keys))).any():
            raise ValueError(f"table: sequence {row} names pages outside [0, {len(paged.keys)})")
