"""Prefill attention in Triton: one program a tile of rows of one sequence and KV head."""

from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.attention.fused import LOWEST, capped, inside, known, page_ids, rows, weighed
from cachestore_kernels.attention.paging import Paged, Scoring
from cachestore_kernels.launch import launch

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernel below runs in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

INTERPRETED_ROWS = 16
"""Rows of a tile in the interpreter: few, so that small tests have many tiles."""


def prefill(query: torch.Tensor, paged: Paged, starts: torch.Tensor, longest: int, scoring: Scoring) -> torch.Tensor:
    """`[rows, heads, value_dim]`."""
    rows, heads, key_dim = query.shape
    kv_heads, value_dim = paged.keys.shape[1], paged.values.shape[3]
    out = query.new_empty(rows, heads, value_dim)
    sequences = len(paged.lengths)
    if 0 in (rows, longest, sequences):
        return out
    settings = launch("prefill", query.device)
    narrow = max(1, triton.next_power_of_2(max(key_dim, value_dim) * query.element_size()) // 256)
    # float32 is multiplied without tensor cores, and its operands take registers
    tile_rows = (
        INTERPRETED_ROWS
        if INTERPRETED
        else settings["rows"] // (narrow * (narrow if query.dtype == torch.float32 else 1))
    )
    with torch.cuda.device(query.get_device()):
        _attend[(triton.cdiv(longest * (heads // kv_heads), tile_rows), kv_heads, sequences)](
            query,
            paged.keys,
            paged.values,
            paged.table,
            paged.lengths,
            starts,
            out,
            scoring.scale,
            scoring.soft_cap or 1.0,
            rows,
            len(paged.keys),
            paged.table.shape[1],
            *query.stride()[:2],
            *paged.keys.stride()[:3],
            *paged.values.stride()[:3],
            GROUP_HEADS=heads // kv_heads,
            ROWS=tile_rows,
            WINDOW=scoring.window or 0,
            CAPPED=scoring.soft_cap is not None,
            TOKENS=paged.tokens,
            TILE=max(16, settings["tile"] // narrow),
            KEY_DIM=key_dim,
            VALUE_DIM=value_dim,
            num_warps=settings["num_warps"],
            num_stages=settings["num_stages"],
            enable_fp_fusion=True,
        )
    return out


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["all_rows", "page_count", "table_pages"],
    do_not_specialize_on_alignment=["table", "lengths", "starts"],
)
def _attend(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    table: tl.tensor,  # [sequences, table_pages]
    lengths: tl.tensor,
    starts: tl.tensor,
    out: tl.tensor,  # [rows, heads, VALUE_DIM]
    scale: tl.tensor,
    soft_cap: tl.tensor,
    all_rows: tl.tensor,
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
) -> None:
    head, sequence = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    # the longest tiles of causal attention come last in a sequence: they are started first
    tile_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    start, past = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    count = past - start
    if tile_row >= count * GROUP_HEADS:
        return
    KEY_WIDTH: tl.constexpr = triton.next_power_of_2(KEY_DIM)
    VALUE_WIDTH: tl.constexpr = triton.next_power_of_2(VALUE_DIM)
    row = tile_row + tl.arange(0, ROWS)
    token_row, member = row // GROUP_HEADS, row % GROUP_HEADS
    key_dim, value_dim = tl.arange(0, KEY_WIDTH), tl.arange(0, VALUE_WIDTH)
    real = (token_row < count) & (start + token_row >= 0) & (start + token_row < all_rows)
    at = (start + token_row).to(tl.int64)
    q_head = head * GROUP_HEADS + member
    at_query = query + (at * query_row + q_head * query_head)[:, None] + key_dim[None, :]
    queries = tl.load(at_query, mask=real[:, None] & (key_dim < KEY_DIM)[None, :], other=0)
    result = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), LOWEST, tl.float32)

    length = tl.minimum(tl.load(lengths + sequence), table_pages * TOKENS)
    position = length - count + token_row  # [ROWS]
    lowest = length - count + tile_row // GROUP_HEADS
    stop = tl.minimum(length - count + (tile_row + ROWS - 1) // GROUP_HEADS + 1, length)
    first = tl.maximum(lowest - WINDOW + 1, 0) if WINDOW else stop * 0
    pages = table + sequence * table_pages
    keys += head * key_head
    values += head * value_head
    past_tile = tl.cdiv(stop, TILE)
    first_tile = first // TILE
    # tiles that every row sees whole come first, and ask less
    whole = first_tile if WINDOW else tl.minimum(tl.maximum(lowest + 1, 0) // TILE, past_tile)
    if not WINDOW:
        ids = page_ids(pages, first_tile, stop, TOKENS, TILE)
        for tile in range(first_tile, whole):
            there = known(ids, page_count) & (tl.arange(0, TILE) >= 0)
            k, v = rows(
                ids, tile, there, page_count, keys, key_page, key_token, key_dim, values, value_page, value_token,
                value_dim, TOKENS, TILE, KEY_DIM, VALUE_DIM,
            )  # fmt: skip
            scores = capped(tl.dot(queries, tl.trans(k), input_precision="ieee"), scale, soft_cap, CAPPED)
            weights, fade, top = weighed(tl.where(there[None, :], scores, -float("inf")), top)
            result = tl.dot(weights.to(v.dtype), v, result * fade[:, None], input_precision="ieee")
            total = total * fade + tl.sum(weights, 1)
            ids = page_ids(pages, tile + 1, stop, TOKENS, TILE)
    ids = page_ids(pages, whole, stop, TOKENS, TILE)
    for tile in range(whole, past_tile):
        there = inside(ids, tile, stop, page_count, TOKENS, TILE)
        k, v = rows(
            ids, tile, there, page_count, keys, key_page, key_token, key_dim, values, value_page, value_token,
            value_dim, TOKENS, TILE, KEY_DIM, VALUE_DIM,
        )  # fmt: skip
        scores = capped(tl.dot(queries, tl.trans(k), input_precision="ieee"), scale, soft_cap, CAPPED)
        token = tile * TILE + tl.arange(0, TILE)
        seen = there[None, :] & (token[None, :] <= position[:, None])
        if WINDOW:
            seen &= token[None, :] > position[:, None] - WINDOW
        weights, fade, top = weighed(tl.where(seen, scores, -float("inf")), top)
        result = tl.dot(weights.to(v.dtype), v, result * fade[:, None], input_precision="ieee")
        total = total * fade + tl.sum(weights, 1)
        ids = page_ids(pages, tile + 1, stop, TOKENS, TILE)

    result /= tl.where(total == 0, 1.0, total)[:, None]
    heads = tl.num_programs(1) * GROUP_HEADS
    at_out = out + (at * heads + q_head)[:, None] * VALUE_DIM + value_dim[None, :]
    tl.store(at_out, result.to(out.dtype.element_ty), mask=real[:, None] & (value_dim < VALUE_DIM)[None, :])
