"""The oracle: keys turned in plain torch, on any device."""

import torch

from cachestore_kernels.paged import naive
from cachestore_kernels.paged.pools import Pools
from cachestore_kernels.rope.turns import Turns


def scatter(blocks: torch.Tensor, pools: Pools, turns: Turns) -> None:
    """Write `blocks` into their pages, keys turned."""
    turned = blocks.clone()
    keys = blocks[:, :, 0].float()  # [blocks, slots, heads, tokens, head_dim]
    cosines, sines = (part[:, None, None] for part in (turns.cosines, turns.sines))
    pairs = turns.pairs
    if turns.interleaved:
        first, second = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    else:
        first, second = slice(0, pairs), slice(pairs, 2 * pairs)
    one, two = keys[..., first], keys[..., second]
    still = turns.shifts[:, None, None, :, None] == 0
    for part, result in ((first, one * cosines - two * sines), (second, two * cosines + one * sines)):
        target = turned[:, :, 0, ..., part]
        target.copy_(torch.where(still, target, result.to(blocks.dtype)))
    naive.scatter(turned, pools)
