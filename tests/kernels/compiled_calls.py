"""The calls whose kernels are compiled for real architectures: head dims, dtypes and layouts of models in use."""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType

import torch

from cachestore_kernels import checksum, paged, quant, rope, shuffle
from cachestore_kernels.attention import decode, prefill
from cachestore_kernels.quant.forms import Form

MODULES: tuple[ModuleType, ...] = (paged, quant, shuffle, rope, checksum, decode, prefill)
BF16, FP16 = torch.bfloat16, torch.float16


def pools(
    dim: int, dtype: torch.dtype, heads: int = 2, tokens: int = 16
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Two slots, `[pages, heads, tokens, 2 * dim]` as vLLM has them."""
    both = [torch.zeros(4, heads, tokens, 2 * dim).to(dtype).chunk(2, dim=3) for _ in range(2)]
    return [k for k, _ in both], [v for _, v in both]


PAGES = torch.tensor([[0, 1], [2, 3]])


def move(dim: int, dtype: torch.dtype) -> None:
    keys, values = pools(dim, dtype)
    paged.scatter(paged.gather(keys, values, PAGES), keys, values, PAGES)


def quantise(form: Form, dim: int, dtype: torch.dtype) -> None:
    keys, values = pools(dim, dtype, tokens=32)
    quant.peaks(keys, values, PAGES)
    codes = quant.gather_quantised(keys, values, PAGES, form=form)
    quant.scatter_dequantised(codes, keys, values, PAGES)


def part(dim: int, dtype: torch.dtype) -> None:
    keys, values = pools(dim, dtype, tokens=32)
    shuffle.scatter_split(shuffle.gather_split(keys, values, PAGES), keys, values, PAGES)
    shuffle.scatter_packed(shuffle.gather_packed(keys, values, PAGES), keys, values, PAGES)


def shift(dim: int, dtype: torch.dtype, pairs: int, style: rope.Style) -> None:
    keys, values = pools(dim, dtype)
    blocks = torch.zeros(2, 2, 2, 2, 32, dim).to(dtype)
    turns = {"shifts": torch.ones(2, 32).long(), "frequencies": torch.ones(pairs)}
    rope.scatter_shifted(blocks, keys, values, PAGES, **turns, style=style)


def check(dim: int, dtype: torch.dtype) -> None:
    keys, values = pools(dim, dtype)
    checksum.checksum_pages(keys, values, PAGES, head_groups=2)


def attend(dim: int, dtype: torch.dtype, form: Form | None = None, **options: object) -> None:
    keys, values = pools(dim, dtype, tokens=64)
    query = torch.zeros(2, 16, dim).to(dtype)
    table, lengths = PAGES.int(), torch.tensor([100, 40], dtype=torch.int32)
    if form is None:
        decode.decode(query, keys[0], values[0], table, lengths, splits=2, **options)  # type: ignore[arg-type]
        return
    codes = quant.Quantised(
        form,
        64,
        torch.zeros(4, 1, 2, 2, 64, dim // 2 if form == "int4" else dim, dtype=torch.uint8),
        torch.zeros(4, 1, 2, 1, dim, dtype=torch.float16),
        torch.zeros(4, 1, 2, 64, -(-dim // 64), dtype=torch.float16),
        *(
            [torch.zeros(4, 1, 2, 1, dim).half(), torch.zeros(4, 1, 2, 64, -(-dim // 64)).half()]
            if "int" in form
            else [None] * 2
        ),
    )
    scales = decode.Scales.of_slot(codes, 0)
    pages = codes.codes[:, 0, 0], codes.codes[:, 0, 1]
    decode.decode(query, *pages, table, lengths, scales=scales, splits=2, **options)  # type: ignore[arg-type]


def attend_chunk(dim: int, dtype: torch.dtype, **options: object) -> None:
    keys, values = pools(dim, dtype, tokens=64)
    starts, lengths = torch.tensor([0, 5, 7], dtype=torch.int32), torch.tensor([100, 40], dtype=torch.int32)
    query = torch.zeros(7, 16, dim).to(dtype)
    prefill.prefill(query, keys[0], values[0], PAGES.int(), lengths, starts, 5, **options)  # type: ignore[arg-type]


def ones() -> None:
    """One page, one head, one block: arguments that Triton makes constants because they are 1."""
    keys, values = ([pool[:1, :1] for pool in side[:1]] for side in pools(128, BF16, tokens=64))
    page = torch.tensor([0])
    blocks = paged.gather(keys, values, page)
    quant.gather_quantised(keys, values, page, form="int8")
    shuffle.gather_split(keys, values, page)
    shuffle.gather_packed(keys, values, page)
    rope.scatter_shifted(blocks, keys, values, page, shifts=torch.ones(1, 64).long(), frequencies=torch.ones(1))
    checksum.checksum_pages(keys, values, page)
    query, table, lengths = torch.zeros(1, 1, 128).to(BF16), torch.zeros(1, 1).int(), torch.ones(1).int()
    decode.decode(query, keys[0], values[0], table, lengths, splits=1)
    prefill.prefill(query, keys[0], values[0], table, lengths, torch.tensor([0, 1]).int(), 1)


def serve(count: int) -> None:
    """`count` blocks of a page of 64 tokens each in pools of as many pages, whose ids lie anywhere in memory."""
    pool = torch.zeros(count, 8, 64, 128, dtype=BF16)
    keys, values, pages = [pool, pool], [pool, pool], torch.arange(count + 1)[1:]
    blocks = paged.gather(keys, values, pages)
    for form in quant.FORMS:
        quant.scatter_dequantised(quant.gather_quantised(keys, values, pages, form=form), keys, values, pages)
    shuffle.gather_split(keys, values, pages)
    shuffle.gather_packed(keys, values, pages)
    rope.scatter_shifted(
        blocks, keys, values, pages, shifts=torch.ones(count, 64).long(), frequencies=torch.ones(64), style="half"
    )
    checksum.checksum_pages(keys, values, pages)
    checksum.checksum_planes(blocks.flatten(0, 2))


CALLS: Mapping[str, Callable[[], None]] = {
    **{f"serve {count}": partial(serve, count) for count in (1, 3, 16)},
    "ones": ones,
    "move bf16 128": partial(move, 128, BF16),
    "move bf16 80": partial(move, 80, BF16),
    "move fp32 40": partial(move, 40, torch.float32),
    "move fp8 96": partial(move, 96, torch.float8_e4m3fn),
    "quant int8 bf16 128": partial(quantise, "int8", 128, BF16),
    "quant int4 bf16 128": partial(quantise, "int4", 128, BF16),
    "quant int4 fp16 80": partial(quantise, "int4", 80, FP16),
    "quant e4m3 bf16 128": partial(quantise, "e4m3", 128, BF16),
    "quant e5m2 fp16 64": partial(quantise, "e5m2", 64, FP16),
    "shuffle bf16 128": partial(part, 128, BF16),
    "shuffle fp16 80": partial(part, 80, FP16),
    "shuffle bf16 256": partial(part, 256, BF16),
    "rope bf16 128 half": partial(shift, 128, BF16, 64, "half"),
    "rope fp16 80 partial": partial(shift, 80, FP16, 16, "half"),
    "rope bf16 128 interleaved": partial(shift, 128, BF16, 64, "interleaved"),
    "checksum bf16 128": partial(check, 128, BF16),
    "decode bf16 128": partial(attend, 128, BF16),
    "decode bf16 128 prefetch": partial(attend, 128, BF16, prefetch=True),
    "decode fp16 80 window cap": partial(attend, 80, FP16, window=50, soft_cap=30.0),
    "decode bf16 256": partial(attend, 256, BF16),
    "decode int8 128": partial(attend, 128, BF16, "int8"),
    "decode int4 128": partial(attend, 128, BF16, "int4"),
    "decode int4 fp16 80": partial(attend, 80, FP16, "int4"),
    "decode int4 128 prefetch": partial(attend, 128, BF16, "int4", prefetch=True),
    "decode e4m3 128": partial(attend, 128, BF16, "e4m3"),
    "decode e5m2 64": partial(attend, 64, FP16, "e5m2"),
    "prefill bf16 128": partial(attend_chunk, 128, BF16),
    "prefill fp16 80 window cap": partial(attend_chunk, 80, FP16, window=50, soft_cap=30.0),
    "prefill bf16 256": partial(attend_chunk, 256, BF16),
}
