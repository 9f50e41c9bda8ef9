"""Decode attention in Triton: one program a sequence, KV head and split, and one a query head to combine splits."""

from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.attention.decode.pages import Scales
from cachestore_kernels.attention.decode.prefetch import NONE, prefetching
from cachestore_kernels.attention.fused import LOWEST, absorbed, pages_of, scored
from cachestore_kernels.attention.paging import Paged, Scoring
from cachestore_kernels.launch import Settings, launch
from cachestore_kernels.quant.fused import worth

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernels below run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""


def decode(
    query: torch.Tensor, paged: Paged, scoring: Scoring, scales: Scales | None, splits: int | None, prefetch: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[sequences, heads, value_dim]`, and sums `[sequences, heads]`."""
    sequences, heads, key_dim = query.shape
    kv_heads = paged.keys.shape[1]
    value_dim = paged.values.shape[3] * (2 if scales is not None and scales.form == "int4" else 1)
    out = query.new_empty(sequences, heads, value_dim)
    sums = torch.empty(sequences, heads, device=query.device)
    if sequences == 0:
        return out, sums
    settings = launch("decode", query.device)
    if splits is None:
        tokens = min(paged.capacity, scoring.window or paged.capacity)
        splits = _splits(query.device, sequences * kv_heads, tokens, settings)
    # one split writes the result itself
    parts = query.new_empty(sequences, heads, splits, value_dim, dtype=torch.float32) if splits > 1 else out
    part_sums = sums.new_empty(sequences, heads, splits) if splits > 1 else sums
    scale_strides = [*scales.keys.stride()[:3], *scales.values.stride()[:3]] if scales else [0] * 6
    with torch.cuda.device(query.get_device()):
        _attend[(splits, kv_heads, sequences)](
            query,
            paged.keys,
            paged.values,
            *((scales.keys, scales.values) if scales else (query, query)),
            *((scales.key_zeros, scales.value_zeros) if scales and scales.key_zeros is not None else (query, query)),
            paged.table,
            paged.lengths,
            parts,
            part_sums,
            scoring.scale,
            scoring.soft_cap or 1.0,
            len(paged.keys),
            paged.table.shape[1],
            *query.stride()[:2],
            *paged.keys.stride()[:3],
            *paged.values.stride()[:3],
            *scale_strides,
            SPLITS=splits,
            GROUP_HEADS=heads // kv_heads,
            ROWS=max(16, triton.next_power_of_2(heads // kv_heads)),
            WINDOW=scoring.window or 0,
            CAPPED=scoring.soft_cap is not None,
            FORM=scales.form if scales else "",
            GROUP=scales.group if scales else 1,
            PAGE_TOKENS=paged.tokens,
            TILE=_tile(paged, scales, max(key_dim, value_dim), settings),
            KEY_DIM=key_dim,
            VALUE_DIM=value_dim,
            AHEAD=settings["ahead"],
            **(prefetching(paged) if prefetch and not INTERPRETED and torch.version.hip is None else NONE),
            num_warps=settings["num_warps"],
            num_stages=settings["num_stages"],
            enable_fp_fusion=True,
        )
        if splits > 1:
            _combine[(heads, sequences)](
                parts,
                part_sums,
                out,
                sums,
                SPLITS=splits,
                COUNT=triton.next_power_of_2(splits),
                DIM=value_dim,
                WIDTH=triton.next_power_of_2(value_dim),
                enable_fp_fusion=True,
            )
    return out, sums


def _splits(device: torch.device, programs: int, tokens: int, settings: Settings) -> int:
    """How many programs share a sequence, from what the host knows: the table's room, not the lengths."""
    if INTERPRETED:
        return 2
    wanted = settings["waves"] * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(-(-wanted // programs), -(-tokens // settings["least_split"]), 256))


def _tile(paged: Paged, scales: Scales | None, dim: int, settings: Settings) -> int:
    """Tokens of a step; of codes so few that all share a group of keys, and so its scales."""
    narrow = 1 if dim <= 128 else 2
    if scales is None:
        return settings["tile"] // narrow
    return min(settings["code_tile"] // narrow, paged.tokens, scales.group)


@triton.jit  # type: ignore[untyped-decorator]
def _attend(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    key_zeros: tl.tensor,
    value_zeros: tl.tensor,
    table: tl.tensor,  # [sequences, table_pages]
    lengths: tl.tensor,
    out: tl.tensor,  # [sequences, heads, SPLITS, VALUE_DIM]
    sums: tl.tensor,  # [sequences, heads, SPLITS]
    scale: tl.tensor,
    soft_cap: tl.tensor,
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
    key_scale_page: tl.tensor,
    key_scale_head: tl.tensor,
    key_scale_group: tl.tensor,
    value_scale_page: tl.tensor,
    value_scale_head: tl.tensor,
    value_scale_token: tl.tensor,
    SPLITS: tl.constexpr,
    GROUP_HEADS: tl.constexpr,  # query heads of a KV head
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    TILE: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    AHEAD: tl.constexpr,
    PREFETCH: tl.constexpr,
    KEY_LINES: tl.constexpr,
    VALUE_LINES: tl.constexpr,
    LINE_ITEMS: tl.constexpr,
) -> None:
    split, head, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    KEY_WIDTH: tl.constexpr = triton.next_power_of_2(KEY_DIM)
    VALUE_WIDTH: tl.constexpr = triton.next_power_of_2(VALUE_DIM)
    PACKED: tl.constexpr = 2 if FORM == "int4" else 1
    row = tl.arange(0, ROWS)
    key_dim, value_dim = tl.arange(0, KEY_WIDTH), tl.arange(0, VALUE_WIDTH)
    key_item, value_item = tl.arange(0, KEY_WIDTH // PACKED), tl.arange(0, VALUE_WIDTH // PACKED)

    at_query = query + sequence * query_row + (head * GROUP_HEADS + row)[:, None] * query_head + key_dim[None, :]
    queries = tl.load(at_query, mask=(row < GROUP_HEADS)[:, None] & (key_dim < KEY_DIM)[None, :], other=0)
    result = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), LOWEST, tl.float32)

    stop = tl.minimum(tl.load(lengths + sequence), table_pages * PAGE_TOKENS)
    first = tl.maximum(stop - WINDOW, 0) if WINDOW else stop * 0
    first_tile, tiles = first // TILE, tl.cdiv(stop, TILE)
    share = tl.cdiv(tiles - first_tile, SPLITS)
    begin = first_tile + split * share
    end = tl.minimum(begin + share, tiles)
    pages = table + sequence * table_pages
    keys += head * key_head
    values += head * value_head
    for tile in range(begin, end):
        token = tile * TILE + tl.arange(0, TILE)
        page, inside = pages_of(pages, token, stop, page_count, PAGE_TOKENS)
        place = (token % PAGE_TOKENS).to(tl.int64)
        if PREFETCH != "":
            # the last tile again behind the end: no address outside the sequence
            soon = tl.minimum(tl.minimum(tile + AHEAD, end - 1) * TILE + tl.arange(0, TILE), stop - 1)
            soon_page, _ = pages_of(pages, soon, stop, page_count, PAGE_TOKENS)
            soon_place = (soon % PAGE_TOKENS).to(tl.int64)
            _bring(
                keys + soon_page * key_page + soon_place * key_token, PREFETCH, KEY_LINES, LINE_ITEMS, KEY_DIM // PACKED
            )
            _bring(
                values + soon_page * value_page + soon_place * value_token,
                PREFETCH, VALUE_LINES, LINE_ITEMS, VALUE_DIM // PACKED,
            )  # fmt: skip

        at_key = keys + (page * key_page + place * key_token)[:, None] + key_item[None, :]
        k = tl.load(at_key, mask=inside[:, None] & (key_item < KEY_DIM // PACKED)[None, :], other=0)
        at_value = values + (page * value_page + place * value_token)[:, None] + value_item[None, :]
        v = tl.load(at_value, mask=inside[:, None] & (value_item < VALUE_DIM // PACKED)[None, :], other=0)
        if FORM != "":
            # a tile lies in one page and one group of its keys
            one = tl.load(pages + tile * TILE // PAGE_TOKENS).to(tl.int64)
            one = tl.where((one >= 0) & (one < page_count), one, 0)
            group = (tile * TILE % PAGE_TOKENS) // GROUP
            offset = one * key_scale_page + head * key_scale_head + group * key_scale_group + key_dim
            k = worth(k, FORM) * _load_row(key_scales + offset, key_dim < KEY_DIM)
            start = page * value_scale_page + head * value_scale_head + place * value_scale_token
            v = worth(v, FORM) * _load_groups(value_scales, start, inside, GROUP, VALUE_DIM, VALUE_WIDTH)
            if FORM == "int8" or FORM == "int4":
                k += _load_row(key_zeros + offset, key_dim < KEY_DIM)
                v += _load_groups(value_zeros, start, inside, GROUP, VALUE_DIM, VALUE_WIDTH)
            k, v = k.to(queries.dtype), v.to(queries.dtype)

        scores = scored(queries, k, scale, soft_cap, CAPPED)
        scores = tl.where((inside & (token >= first))[None, :], scores, -float("inf"))
        result, total, top = absorbed(scores, v, result, total, top)

    # what has seen nothing divides by one
    result /= tl.where(total == 0, 1.0, total)[:, None]
    sum_log = tl.where(
        total == 0, -float("inf"), (top + tl.log2(tl.where(total == 0, 1.0, total))) * 0.6931471805599453
    )
    heads = tl.num_programs(1) * GROUP_HEADS
    at = ((sequence * heads + head * GROUP_HEADS + row) * SPLITS + split).to(tl.int64)
    mask = row < GROUP_HEADS
    at_out = out + at[:, None] * VALUE_DIM + value_dim[None, :]
    tl.store(at_out, result.to(out.dtype.element_ty), mask=mask[:, None] & (value_dim < VALUE_DIM)[None, :])
    tl.store(sums + at, sum_log, mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _load_row(at: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """One row of scales for all tokens of a tile: `[1, dim]`."""
    return tl.load(at, mask=mask, other=0).to(tl.float32)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def _load_groups(
    scales: tl.tensor, start: tl.tensor, inside: tl.tensor, GROUP: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr
) -> tl.tensor:
    """The scales of each token's groups, spread over its channels: `[tokens, WIDTH]`."""
    SPAN: tl.constexpr = GROUP if GROUP < WIDTH else WIDTH
    COUNT: tl.constexpr = WIDTH // SPAN
    group = tl.arange(0, COUNT)
    mask = inside[:, None] & (group * SPAN < DIM)[None, :]
    each = tl.load(scales + start[:, None] + group[None, :], mask=mask, other=0).to(tl.float32)
    return tl.broadcast_to(each[:, :, None], (each.shape[0], COUNT, SPAN)).reshape(each.shape[0], WIDTH)


@triton.jit  # type: ignore[untyped-decorator]
def _bring(at: tl.tensor, ASM: tl.constexpr, LINES: tl.constexpr, LINE_ITEMS: tl.constexpr, DIM: tl.constexpr) -> None:
    """Ask for rows to be brought into L2: no data, no wait, no change of any result."""
    line = tl.minimum(tl.arange(0, LINES) * LINE_ITEMS, DIM - 1)
    address = (at[:, None] + line[None, :]).to(tl.int64)
    tl.inline_asm_elementwise(ASM, "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit  # type: ignore[untyped-decorator]
def _combine(
    parts: tl.tensor,  # [sequences, heads, SPLITS, DIM]
    part_sums: tl.tensor,  # [sequences, heads, SPLITS]
    out: tl.tensor,  # [sequences, heads, DIM]
    sums: tl.tensor,  # [sequences, heads]
    SPLITS: tl.constexpr,
    COUNT: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    at = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    split, dim = tl.arange(0, COUNT), tl.arange(0, WIDTH)
    logs = tl.load(part_sums + at * SPLITS + split, mask=split < SPLITS, other=-float("inf"))
    top = tl.maximum(tl.max(logs, 0), LOWEST)
    weights = tl.exp(logs - top)
    total = tl.sum(weights, 0)
    mask = (split < SPLITS)[:, None] & (dim < DIM)[None, :]
    rows = tl.load(parts + (at * SPLITS + split)[:, None] * DIM + dim[None, :], mask=mask, other=0)
    some = tl.where(total == 0, 1.0, total)
    result = tl.sum(rows * weights[:, None], 0) / some
    tl.store(out + at * DIM + dim, result.to(out.dtype.element_ty), mask=dim < DIM)
    tl.store(sums + at, tl.where(total == 0, -float("inf"), top + tl.log(some)))
