"""What the attention kernels share: pages of tokens, scores, and the online softmax.

Exponentials are to base two, as the hardware has them; scores carry the factor.
"""

from typing import Final

import triton
import triton.language as tl

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether these functions run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

LOWEST: Final = tl.constexpr(-1.0e30)
"""Where a running maximum starts: finite, so that a row which has seen nothing yet subtracts no infinities."""

LOG2E: Final = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def pages_of(
    table: tl.tensor, token: tl.tensor, stop: tl.tensor, page_count: tl.tensor, TOKENS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The page of each token in int64, and whether it lies in the pool and before `stop`; where not, page 0."""
    page = tl.load(table + token // TOKENS, mask=token < stop, other=-1).to(tl.int64)
    inside = (page >= 0) & (page < page_count)
    return tl.where(inside, page, 0), inside


@triton.jit  # type: ignore[untyped-decorator]
def scored(query: tl.tensor, keys: tl.tensor, scale: tl.tensor, soft_cap: tl.tensor, CAPPED: tl.constexpr) -> tl.tensor:
    """Scores `[rows, tokens]` to base two of `query` `[rows, dim]` and `keys` `[tokens, dim]`."""
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
    if CAPPED:
        # tanh, which saturates as its exponential overflows or vanishes
        scores = soft_cap * (1.0 - 2.0 / (tl.exp(2.0 * scores / soft_cap) + 1.0))
    return scores * LOG2E


@triton.jit  # type: ignore[untyped-decorator]
def absorbed(
    scores: tl.tensor, values: tl.tensor, result: tl.tensor, total: tl.tensor, top: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The running result `[rows, dim]`, total and maximum `[rows]` after one more tile of tokens."""
    above = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - above[:, None])
    fade = tl.exp2(top - above)
    result = tl.dot(weights.to(values.dtype), values, result * fade[:, None], input_precision="ieee")
    return result, total * fade + tl.sum(weights, 1), above
