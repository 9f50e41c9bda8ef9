"""The kernel over pages of codes: what a step computes with was loaded, as codes, the step before.

With codes the arithmetic is what time goes to: a code becomes a number of the query's dtype by few instructions, mostly
on both halves of a register, and one multiply-add brings in scale and zero. Of int4 every operand is two of half the
channels, in the order in which a register comes apart, so that nothing is shuffled: queries take that order too.
"""

from typing import Final

import triton
import triton.language as tl

from cachestore_kernels.attention.decode.sharing.fused import bring, finish, share_of
from cachestore_kernels.attention.fused import LOWEST, capped, inside, known, offsets, page_ids, weighed

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernel below runs in Triton's interpreter: TRITON_INTERPRET at the import of this file."""


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["splits", "page_count", "table_pages"], do_not_specialize_on_alignment=["table", "lengths"]
)
def attend(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    key_zeros: tl.tensor,
    value_zeros: tl.tensor,
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
    key_scale_page: tl.tensor,
    key_scale_head: tl.tensor,
    key_scale_group: tl.tensor,
    value_scale_page: tl.tensor,
    value_scale_head: tl.tensor,
    value_scale_token: tl.tensor,
    GROUP_HEADS: tl.constexpr,  # query heads of a KV head
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    FORM: tl.constexpr,
    GROUP: tl.constexpr,  # elements that share a scale
    TOKENS: tl.constexpr,  # of a page, which is whole tiles
    TILE: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    WORDS: tl.constexpr,  # whether int4 is loaded eight at a time, not as bytes
    EIGHTHS: tl.constexpr,  # how these are taken apart, in assembly, or ""
    AHEAD: tl.constexpr,
    PREFETCH: tl.constexpr,
    KEY_LINES: tl.constexpr,
    VALUE_LINES: tl.constexpr,
    LINE_ITEMS: tl.constexpr,
) -> None:
    head, sequence = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    EACH: tl.constexpr = 2 if FORM == "int4" else 1  # operands that share the codes of an item
    CODES: tl.constexpr = 8 if WORDS else EACH  # of an item
    ZEROS: tl.constexpr = FORM == "int4" or FORM == "int8"
    KEY_ITEMS: tl.constexpr = KEY_DIM // CODES
    VALUE_ITEMS: tl.constexpr = VALUE_DIM // CODES
    KEY_WIDTH: tl.constexpr = triton.next_power_of_2(KEY_ITEMS)
    VALUE_WIDTH: tl.constexpr = triton.next_power_of_2(VALUE_ITEMS)
    COLUMNS: tl.constexpr = VALUE_WIDTH * CODES // EACH
    # neighbouring groups of channels
    SPAN: tl.constexpr = GROUP // EACH if GROUP // EACH < COLUMNS else COLUMNS
    COUNT: tl.constexpr = COLUMNS // SPAN
    row, group, key_dim = tl.arange(0, ROWS), tl.arange(0, COUNT), tl.arange(0, KEY_WIDTH * CODES)
    key_item, value_item = tl.arange(0, KEY_WIDTH), tl.arange(0, VALUE_WIDTH)
    real_key, real_value, real_group = key_item < KEY_ITEMS, value_item < VALUE_ITEMS, group * SPAN * EACH < VALUE_DIM
    at_query = query + sequence * query_row + (head * GROUP_HEADS + row)[:, None] * query_head
    mask = (row < GROUP_HEADS)[:, None] & (key_dim < KEY_DIM)[None, :]
    queries = tl.load(at_query + key_dim[None, :], mask=mask, other=0)
    result = tl.zeros((ROWS, COLUMNS), tl.float32)
    total = tl.zeros((ROWS, TILE), tl.float32)
    top = tl.full((ROWS,), LOWEST, tl.float32)

    stop = tl.minimum(tl.load(lengths + sequence), table_pages * TOKENS)
    first, begin, end = share_of(stop, splits, WINDOW, TILE)
    pages = table + sequence * table_pages
    keys += head * key_head
    values += head * value_head
    in_key_scales = head * key_scale_head + key_dim
    in_value_scales = head * value_scale_head + group
    # nothing is computed with in the first step
    k = tl.zeros((TILE, KEY_WIDTH), tl.int32 if WORDS else tl.uint8)
    v = tl.zeros((TILE, VALUE_WIDTH), tl.int32 if WORDS else tl.uint8)
    k_scale = tl.zeros((KEY_WIDTH * CODES,), tl.float16)
    if ZEROS:
        k_zero = k_scale
    if EACH == 2:
        other_result = result
    there = tl.zeros((TILE,), tl.int32) != 0
    ids = page_ids(pages, begin, stop, TOKENS, TILE)
    here = ids
    if PREFETCH != "":
        far = page_ids(pages, begin + AHEAD, stop, TOKENS, TILE)
    for tile in range(begin, end + 1):
        if PREFETCH != "":
            soon = tile + AHEAD
            bring(
                keys + offsets(far, soon, page_count, key_page, key_token, TOKENS, TILE),
                values + offsets(far, soon, page_count, value_page, value_token, TOKENS, TILE),
                inside(far, soon, tl.where(soon < end, stop, 0), page_count, TOKENS, TILE),
                PREFETCH, KEY_LINES, VALUE_LINES, LINE_ITEMS, KEY_ITEMS, VALUE_ITEMS,
            )  # fmt: skip
            far = page_ids(pages, soon + 1, stop, TOKENS, TILE)

        # what comes last in a step is asked for in it
        rows = offsets(here, tile - 1, page_count, value_scale_page, value_scale_token, TOKENS, TILE)
        at_row = rows[:, None] + in_value_scales[None, :]
        in_groups = there[:, None] & real_group[None, :]
        v_scale = tl.load(value_scales + at_row, mask=in_groups, other=0)
        v_zero = tl.load(value_zeros + at_row, mask=in_groups, other=0) if ZEROS else v_scale
        # this tile is asked for; the one before it, which is there, is computed with
        next_there = inside(ids, tile, tl.where(tile < end, stop, 0), page_count, TOKENS, TILE)
        at_key = _items(keys + offsets(ids, tile, page_count, key_page, key_token, TOKENS, TILE), WORDS)
        next_k = tl.load(at_key[:, None] + key_item[None, :], mask=next_there[:, None] & real_key[None, :], other=0)
        at_value = _items(values + offsets(ids, tile, page_count, value_page, value_token, TOKENS, TILE), WORDS)
        next_v = tl.load(
            at_value[:, None] + value_item[None, :], mask=next_there[:, None] & real_value[None, :], other=0
        )
        page = tl.where(known(ids, page_count), ids, 0).to(tl.int64)
        at_scale = page * key_scale_page + (tile * TILE % TOKENS) // GROUP * key_scale_group + in_key_scales
        next_k_scale = tl.load(key_scales + at_scale, mask=key_dim < KEY_DIM, other=0)
        if ZEROS:
            next_k_zero = tl.load(key_zeros + at_scale, mask=key_dim < KEY_DIM, other=0)
        here = ids
        ids = page_ids(pages, tile + 1, stop, TOKENS, TILE)

        factor, offset = _line(k_scale, k_zero if ZEROS else k_scale, FORM)
        if EACH == 1:
            numbers = _numbers(k, FORM, queries.dtype)
            numbers = numbers * factor.to(queries.dtype)[None, :] + offset.to(queries.dtype)[None, :]
            products = tl.dot(queries, tl.trans(numbers), input_precision="ieee")
        else:
            # a channel's scale and zero are the same for all tokens here: queries take them, which are fewer numbers
            numbers, other_numbers = _halves(k, queries.dtype, WORDS, EIGHTHS)
            scaled = (queries.to(tl.float32) * factor[None, :]).to(queries.dtype)
            scaled, other_scaled = _ordered(_settled(scaled) if EIGHTHS != "" else scaled, WORDS)
            products = tl.dot(scaled, tl.trans(numbers), input_precision="ieee")
            products = tl.dot(other_scaled, tl.trans(other_numbers), products, input_precision="ieee")
            products += tl.sum(queries.to(tl.float32) * offset[None, :], 1)[:, None]
        if WINDOW:
            there = there & ((tile - 1) * TILE + tl.arange(0, TILE) >= first)
        scores = capped(products, scale, soft_cap, CAPPED)
        weights, fade, top = weighed(tl.where(there[None, :], scores, -float("inf")), top)
        total = total * fade[:, None] + weights
        weights = weights.to(queries.dtype)

        factor, offset = _line(v_scale, v_zero, FORM)
        factor = _spread(factor.to(queries.dtype), TILE, COUNT, SPAN)
        offset = _spread(offset.to(queries.dtype), TILE, COUNT, SPAN)
        if EACH == 2:
            numbers, other_numbers = _halves(v, queries.dtype, WORDS, EIGHTHS)
            other_numbers = other_numbers * factor + offset
            other_result = tl.dot(weights, other_numbers, other_result * fade[:, None], input_precision="ieee")
        else:
            numbers = _numbers(v, FORM, queries.dtype)
        result = tl.dot(weights, numbers * factor + offset, result * fade[:, None], input_precision="ieee")

        k, v, k_scale, there = next_k, next_v, next_k_scale, next_there
        if ZEROS:
            k_zero = next_k_zero

    total = tl.sum(total, 1)
    at, some = finish(sums, total, top, splits, GROUP_HEADS, ROWS)
    column = tl.arange(0, COLUMNS)
    # as `_ordered` has them
    channel = column // 4 * 8 + column % 2 * 4 + column // 2 % 2 if WORDS else EACH * column
    at_out = out + at[:, None] * VALUE_DIM + channel[None, :]
    mask = (row < GROUP_HEADS)[:, None] & (channel < VALUE_DIM)[None, :]
    tl.store(at_out, (result / some[:, None]).to(out.dtype.element_ty), mask=mask)
    if EACH == 2:
        at_out += 2 if WORDS else 1
        tl.store(at_out, (other_result / some[:, None]).to(out.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _items(rows: tl.tensor, WORDS: tl.constexpr) -> tl.tensor:
    """Pointers to rows of codes, as pointers to what is loaded at once."""
    return rows.to(tl.pointer_type(tl.int32), bitcast=True) if WORDS else rows


@triton.jit  # type: ignore[untyped-decorator]
def _ordered(rows: tl.tensor, WORDS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Channels `[rows, channels]` as those of `_halves` and in their order."""
    ROWS: tl.constexpr = rows.shape[0]
    HALF: tl.constexpr = rows.shape[1] // 2
    if WORDS:
        # channels 0, 4, 1, 5 of eight, then 2, 6, 3, 7
        first, second = tl.split(tl.permute(rows.reshape(ROWS, HALF // 4, 2, 2, 2), (0, 1, 4, 2, 3)))
    else:
        first, second = tl.split(rows.reshape(ROWS, HALF, 2))
    return first.reshape(ROWS, HALF), second.reshape(ROWS, HALF)


@triton.jit  # type: ignore[untyped-decorator]
def _halves(
    codes: tl.tensor, DTYPE: tl.constexpr, WORDS: tl.constexpr, ASM: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Each half of the int4 codes `[tokens, items]`, less 8, as `DTYPE` `[tokens, channels // 2]`."""
    if WORDS:
        HALF: tl.constexpr = codes.shape[1] * 4
        if ASM != "":
            a, b, c, d, e, f, g, h = tl.inline_asm_elementwise(
                ASM, "=h,=h,=h,=h,=h,=h,=h,=h,r", [codes], dtype=(tl.uint16,) * 8, is_pure=True, pack=1
            )
            low = _settled(tl.join(tl.join(a, b), tl.join(e, f))).to(DTYPE, bitcast=True)
            high = _settled(tl.join(tl.join(c, d), tl.join(g, h))).to(DTYPE, bitcast=True)
        else:
            low = _less_8(tl.join(tl.join(codes, codes >> 4), tl.join(codes >> 16, codes >> 20)), DTYPE)
            high = _less_8(tl.join(tl.join(codes >> 8, codes >> 12), tl.join(codes >> 24, codes >> 28)), DTYPE)
        low, high = low.reshape(codes.shape[0], HALF), high.reshape(codes.shape[0], HALF)
    else:
        low, high = _less_8(codes, DTYPE), _less_8(codes >> 4, DTYPE)
    return low, high


@triton.jit  # type: ignore[untyped-decorator]
def _settled(numbers: tl.tensor) -> tl.tensor:
    """Numbers of 16 bits as they are, by an instruction that is said to have effects: Triton does not look behind it.

    Else it looks back from a product's operands: where these were joined it takes them for codes of half the bits and
    loads them otherwise, and what is computed of few rows it has every warp compute for itself.
    """
    bits = numbers.to(tl.uint16, bitcast=True)
    bits = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [bits], dtype=tl.uint16, is_pure=False, pack=2)
    return bits.to(numbers.dtype, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _less_8(codes: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """The last four bits, less 8, as `DTYPE`."""
    if DTYPE == tl.float32:
        numbers = (codes & 15).to(tl.float32) - 8.0
    else:
        # the last bits of a number so large that they count ones
        ONE: tl.constexpr = 0x6400 if DTYPE == tl.float16 else 0x4300
        less = tl.full((1, 1), 1032.0 if DTYPE == tl.float16 else 136.0, DTYPE)
        numbers = ((codes & 15).to(tl.uint16) | ONE).to(DTYPE, bitcast=True) - less
    return numbers


@triton.jit  # type: ignore[untyped-decorator]
def _numbers(codes: tl.tensor, FORM: tl.constexpr, DTYPE: tl.constexpr) -> tl.tensor:
    """Codes of a byte as `DTYPE`, exactly, but less what `_line` makes good for: 128 of int8, 256 times of e4m3."""
    if FORM == "int8":
        if DTYPE == tl.float16:
            numbers = (codes.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True) - tl.full((1, 1), 1152.0, tl.float16)
        else:
            numbers = (codes ^ 0x80).to(tl.int8, bitcast=True).to(DTYPE)
    elif FORM == "e5m2":
        # the upper half of a float16
        numbers = (codes.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(DTYPE)
    else:
        # exponent and mantissa one place lower are those of a float16 whose exponent is 8 too small
        wide = codes.to(tl.uint16)
        small = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True).to(DTYPE)
        numbers = tl.where((wide & 0x7F) == 0x7F, float("nan"), small)
    return numbers


@triton.jit  # type: ignore[untyped-decorator]
def _line(scales: tl.tensor, zeros: tl.tensor, FORM: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """What `_numbers` are multiplied with, and what is added then, in float32."""
    factor = scales.to(tl.float32) * (256.0 if FORM == "e4m3" else 1.0)
    if FORM == "int4":
        offset = zeros.to(tl.float32) + 8.0 * factor
    elif FORM == "int8":
        offset = zeros.to(tl.float32) + 128.0 * factor
    else:
        offset = tl.zeros_like(factor)
    return factor, offset


@triton.jit  # type: ignore[untyped-decorator]
def _spread(groups: tl.tensor, TILE: tl.constexpr, COUNT: tl.constexpr, SPAN: tl.constexpr) -> tl.tensor:
    """`[tokens, groups]` for each channel of the groups: `[tokens, channels]`."""
    return tl.broadcast_to(groups[:, :, None], (TILE, COUNT, SPAN)).reshape(TILE, COUNT * SPAN)
