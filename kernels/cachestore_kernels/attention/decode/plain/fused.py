"""The kernel over pages of floats: tiles of K and V are on their way while others are computed.

What a step of the loop loads depends on nothing that it loads itself: page ids come from the step before. So the
compiler keeps whole tiles in flight, and no tile waits for the table.
"""

from typing import Final

import triton
import triton.language as tl

from cachestore_kernels.attention.decode.sharing.fused import bring, finish, share_of
from cachestore_kernels.attention.fused import LOWEST, capped, inside, offsets, page_ids, rows, weighed

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernel below runs in Triton's interpreter: TRITON_INTERPRET at the import of this file."""


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["splits", "page_count", "table_pages"], do_not_specialize_on_alignment=["table", "lengths"]
)
def attend(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    table: tl.tensor,  # [sequences, table_pages]
    lengths: tl.tensor,
    out: tl.tensor,  # [sequences, heads, splits, VALUE_DIM]
    sums: tl.tensor,  # [sequences, heads, splits]
    scale: tl.tensor,
    soft_cap: tl.tensor,
    splits: tl.tensor,
    page_count: tl.tensor,
    table_pages: tl.tensor,
    query_row: tl.tensor,  # strides from here on
    query_head: tl.tensor,
    key_page: tl.tensor,
    key_head: tl.tensor,
    key_token: tl.tensor,
    value_page: tl.tensor,
    value_head: tl.tensor,
    value_token: tl.tensor,
    GROUP_HEADS: tl.constexpr,  # query heads of a KV head
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    TOKENS: tl.constexpr,  # of a page
    TILE: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    AHEAD: tl.constexpr,
    PREFETCH: tl.constexpr,
    KEY_LINES: tl.constexpr,
    VALUE_LINES: tl.constexpr,
    LINE_ITEMS: tl.constexpr,
) -> None:
    head, sequence = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    KEY_WIDTH: tl.constexpr = triton.next_power_of_2(KEY_DIM)
    VALUE_WIDTH: tl.constexpr = triton.next_power_of_2(VALUE_DIM)
    row = tl.arange(0, ROWS)
    key_dim, value_dim = tl.arange(0, KEY_WIDTH), tl.arange(0, VALUE_WIDTH)
    at_query = query + sequence * query_row + (head * GROUP_HEADS + row)[:, None] * query_head + key_dim[None, :]
    queries = tl.load(at_query, mask=(row < GROUP_HEADS)[:, None] & (key_dim < KEY_DIM)[None, :], other=0)
    result = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    total = tl.zeros((ROWS, TILE), tl.float32)
    top = tl.full((ROWS,), LOWEST, tl.float32)

    stop = tl.minimum(tl.load(lengths + sequence), table_pages * TOKENS)
    first, begin, end = share_of(stop, splits, WINDOW, TILE)
    pages = table + sequence * table_pages
    keys += head * key_head
    values += head * value_head
    ids = page_ids(pages, begin, stop, TOKENS, TILE)
    if PREFETCH != "":
        far = page_ids(pages, begin + AHEAD, stop, TOKENS, TILE)
    for tile in range(begin, end):
        if PREFETCH != "":
            soon = tile + AHEAD
            bring(
                keys + offsets(far, soon, page_count, key_page, key_token, TOKENS, TILE),
                values + offsets(far, soon, page_count, value_page, value_token, TOKENS, TILE),
                inside(far, soon, tl.where(soon < end, stop, 0), page_count, TOKENS, TILE),
                PREFETCH, KEY_LINES, VALUE_LINES, LINE_ITEMS, KEY_DIM, VALUE_DIM,
            )  # fmt: skip
            far = page_ids(pages, soon + 1, stop, TOKENS, TILE)

        there = inside(ids, tile, stop, page_count, TOKENS, TILE)
        k, v = rows(
            ids, tile, there, page_count, keys, key_page, key_token, key_dim, values, value_page, value_token,
            value_dim, TOKENS, TILE, KEY_DIM, VALUE_DIM,
        )  # fmt: skip
        scores = capped(tl.dot(queries, tl.trans(k), input_precision="ieee"), scale, soft_cap, CAPPED)
        if WINDOW:
            there = there & (tile * TILE + tl.arange(0, TILE) >= first)
        weights, fade, top = weighed(tl.where(there[None, :], scores, -float("inf")), top)
        result = tl.dot(weights.to(v.dtype), v, result * fade[:, None], input_precision="ieee")
        total = total * fade[:, None] + weights
        ids = page_ids(pages, tile + 1, stop, TOKENS, TILE)

    at, some = finish(sums, tl.sum(total, 1), top, splits, GROUP_HEADS, ROWS)
    mask = (row < GROUP_HEADS)[:, None] & (value_dim < VALUE_DIM)[None, :]
    at_out = out + at[:, None] * VALUE_DIM + value_dim[None, :]
    tl.store(at_out, (result / some[:, None]).to(out.dtype.element_ty), mask=mask)
