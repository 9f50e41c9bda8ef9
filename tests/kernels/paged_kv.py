"""Sequences in pages, for tests of attention: what no query may see is NaN."""

from dataclasses import dataclass

import torch

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""What rounding of inputs' dtype leaves of results around 1."""


@dataclass(frozen=True)
class Case:
    """`layout` is the order of a pool's dimensions in memory."""

    lengths: tuple[int, ...] = (5, 60, 0, 33)
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    value_dim: int | None = None
    page_tokens: int = 16
    layout: str = "heads"
    dtype: torch.dtype = torch.float16
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None

    @property
    def options(self) -> dict[str, float | None]:
        return {"window": self.window, "soft_cap": self.soft_cap, "scale": self.scale}


@dataclass
class Sequences:
    keys: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor
    lengths: torch.Tensor


def sequences(case: Case, device: str) -> Sequences:
    """Each sequence's tokens at random pages; NaN in all other tokens, ids far outside in all other table entries."""
    random = torch.Generator().manual_seed(case.dim + sum(case.lengths))
    each = max([-(-length // case.page_tokens) for length in case.lengths], default=0) + 1
    count = len(case.lengths) * each
    order = torch.randperm(count, generator=random).view(-1, each)
    pools = []
    for dim in (case.dim, case.value_dim or case.dim):
        pool = torch.full((count, case.kv_heads, case.page_tokens, dim), torch.nan, dtype=case.dtype)
        for row, length in zip(order, case.lengths, strict=True):
            for token in range(length):
                page = pool[row[token // case.page_tokens], :, token % case.page_tokens]
                page.copy_(torch.randn(case.kv_heads, dim, generator=random))
        pools.append(pool.to(device))
    table = order.int()
    for row, length in zip(table, case.lengths, strict=True):
        row[-(-length // case.page_tokens) :] = 2**30
    if case.layout == "tokens":
        pools = [pool.transpose(1, 2).contiguous().transpose(1, 2) for pool in pools]
    elif case.layout == "joined":
        pools = list(torch.cat(pools, dim=3).split([pool.shape[3] for pool in pools], dim=3))
    lengths = torch.tensor(case.lengths, dtype=torch.int32, device=device)
    return Sequences(pools[0], pools[1], table.to(device), lengths)


def queries(case: Case, rows: int, device: str) -> torch.Tensor:
    """Random queries, one of two interleaved, so that rows are not neighbours in memory."""
    random = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 2, case.heads, case.dim, generator=random).to(case.dtype).to(device)[:, 1]
