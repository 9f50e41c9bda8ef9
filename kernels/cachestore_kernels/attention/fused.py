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
def page_ids(table: tl.tensor, tile: tl.tensor, stop: tl.tensor, TOKENS: tl.constexpr, TILE: tl.constexpr) -> tl.tensor:
    """Where a tile's tokens lie: the page of all of them if a page is whole tiles, else of each; -1 behind `stop`.

    A step of a loop asks for those of the next, which so are there when its loads are issued.
    """
    first = tile * TILE
    if TOKENS % TILE == 0:
        ids = tl.load(table + first // TOKENS, mask=first < stop, other=-1)
    else:
        token = first + tl.arange(0, TILE)
        ids = tl.load(table + token // TOKENS, mask=token < stop, other=-1)
    return ids


@triton.jit  # type: ignore[untyped-decorator]
def known(ids: tl.tensor, page_count: tl.tensor) -> tl.tensor:
    """Which ids name a page of the pool."""
    return (ids >= 0) & (ids < page_count)


@triton.jit  # type: ignore[untyped-decorator]
def inside(
    ids: tl.tensor, tile: tl.tensor, stop: tl.tensor, page_count: tl.tensor, TOKENS: tl.constexpr, TILE: tl.constexpr
) -> tl.tensor:
    """Which tokens `[TILE]` lie in a page of the pool and before `stop`."""
    if TOKENS % TILE == 0:
        # one comparison with a number serves all tokens
        past = tl.where(known(ids, page_count), stop - tile * TILE, 0)
        there = tl.arange(0, TILE) < past
    else:
        there = known(ids, page_count) & (tile * TILE + tl.arange(0, TILE) < stop)
    return there


@triton.jit  # type: ignore[untyped-decorator]
def offsets(
    ids: tl.tensor,
    tile: tl.tensor,
    page_count: tl.tensor,
    page_stride: tl.tensor,
    token_stride: tl.tensor,
    TOKENS: tl.constexpr,
    TILE: tl.constexpr,
) -> tl.tensor:
    """Where each token's row `[TILE]` lies in a pool, in int64; in page 0 where its page is unknown."""
    page = tl.where(known(ids, page_count), ids, 0).to(tl.int64)
    if TOKENS % TILE == 0:
        # by `page` in int64
        start = page * page_stride + (page * 0 + tile * TILE % TOKENS) * token_stride
        rows = start + tl.arange(0, TILE).to(tl.int64) * token_stride
    else:
        rows = page * page_stride + ((tile * TILE + tl.arange(0, TILE)) % TOKENS).to(tl.int64) * token_stride
    return rows


@triton.jit  # type: ignore[untyped-decorator]
def rows(
    ids: tl.tensor,
    tile: tl.tensor,
    there: tl.tensor,
    page_count: tl.tensor,
    keys: tl.tensor,
    key_page: tl.tensor,
    key_token: tl.tensor,
    key_dim: tl.tensor,
    values: tl.tensor,
    value_page: tl.tensor,
    value_token: tl.tensor,
    value_dim: tl.tensor,
    TOKENS: tl.constexpr,
    TILE: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """K and V of a tile's tokens, zeros where they are not there."""
    at_key = keys + offsets(ids, tile, page_count, key_page, key_token, TOKENS, TILE)
    k = tl.load(at_key[:, None] + key_dim[None, :], mask=there[:, None] & (key_dim < KEY_DIM)[None, :], other=0)
    at_value = values + offsets(ids, tile, page_count, value_page, value_token, TOKENS, TILE)
    mask = there[:, None] & (value_dim < VALUE_DIM)[None, :]
    return k, tl.load(at_value[:, None] + value_dim[None, :], mask=mask, other=0)


@triton.jit  # type: ignore[untyped-decorator]
def capped(products: tl.tensor, scale: tl.tensor, soft_cap: tl.tensor, CAPPED: tl.constexpr) -> tl.tensor:
    """Scores to base two of products of queries and keys."""
    if CAPPED:
        # tanh, which saturates as its exponential overflows or vanishes
        scores = soft_cap * LOG2E * (1.0 - 2.0 / (tl.exp2(products * (2.0 * LOG2E * scale / soft_cap)) + 1.0))
    else:
        scores = products * (scale * LOG2E)
    return scores


@triton.jit  # type: ignore[untyped-decorator]
def weighed(scores: tl.tensor, top: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Weights of one more tile of `scores` `[rows, tokens]`, what all before fades by, and the new maximum."""
    above = tl.maximum(top, tl.max(scores, 1))
    return tl.exp2(scores - above[:, None]), tl.exp2(top - above), above
