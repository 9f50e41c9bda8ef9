"""The oracle's core: one sequence's attention in plain torch, on any device."""

import torch

from cachestore_kernels.attention.paging import Scoring


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor, scoring: Scoring
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `query` `[rows, heads, dim]` at `positions` sees of `keys` and `values` `[kv_heads, tokens, dim]`.

    The result `[rows, heads, dim]` and the logarithm of the sum of exponentials `[rows, heads]`, both float32; zeros
    and minus infinity where a row sees nothing.
    """
    group = query.shape[1] // keys.shape[0]
    keys, values = (pool.float().repeat_interleave(group, 0) for pool in (keys, values))
    scores = torch.einsum("rhd,htd->hrt", query.float(), keys) * scoring.scale
    if scoring.soft_cap is not None:
        scores = scoring.soft_cap * torch.tanh(scores / scoring.soft_cap)
    token = torch.arange(keys.shape[1], device=query.device)
    seen = token <= positions[:, None]  # [rows, tokens]
    if scoring.window is not None:
        seen &= token > positions[:, None] - scoring.window
    scores = scores.masked_fill(~seen, -torch.inf)
    sums = torch.logsumexp(scores, -1)  # [heads, rows]
    weights = torch.exp(scores - sums.masked_fill(sums == -torch.inf, 0)[..., None])
    return torch.einsum("hrt,htd->rhd", weights, values), sums.mT
