"""Decode attention in Triton: one program a sequence, KV head and split, and one a query head to combine splits.

What changes from step to step of a loop that decodes (sequences, lengths, pages of the longest, splits) is no part of
what is compiled.
"""

from collections.abc import Mapping
from functools import cache
from math import ceil
from typing import Final

import torch
import triton

from cachestore_kernels.attention.decode.codes.fused import attend as attend_codes
from cachestore_kernels.attention.decode.eighths import eighths
from cachestore_kernels.attention.decode.pages import Scales
from cachestore_kernels.attention.decode.plain.fused import attend
from cachestore_kernels.attention.decode.prefetch import NONE, prefetching
from cachestore_kernels.attention.decode.sharing.fused import combine
from cachestore_kernels.attention.paging import Paged, Scoring
from cachestore_kernels.launch import Settings, launch

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernels run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

MOST_SPLITS = 256
"""Programs that may share a sequence."""


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
    codes = () if scales is None else _of_codes(scales)
    code_strides = () if scales is None else (*scales.keys.stride()[:3], *scales.values.stride()[:3])
    with torch.cuda.device(query.get_device()):
        (attend if scales is None else attend_codes)[(splits, kv_heads, sequences)](
            query,
            paged.keys,
            paged.values,
            *codes,
            paged.table,
            paged.lengths,
            parts,
            part_sums,
            scoring.scale,
            scoring.soft_cap or 1.0,
            splits,
            len(paged.keys),
            paged.table.shape[1],
            *query.stride()[:2],
            *paged.keys.stride()[:3],
            *paged.values.stride()[:3],
            *code_strides,
            GROUP_HEADS=heads // kv_heads,
            ROWS=max(16, triton.next_power_of_2(heads // kv_heads)),
            WINDOW=scoring.window or 0,
            CAPPED=scoring.soft_cap is not None,
            **({} if scales is None else _kind(scales, paged, query.dtype)),
            TOKENS=paged.tokens,
            TILE=_tile(paged, scales, max(key_dim, value_dim) * query.element_size(), settings),
            KEY_DIM=key_dim,
            VALUE_DIM=value_dim,
            AHEAD=settings["ahead"],
            **(prefetching(paged) if prefetch and not INTERPRETED and torch.version.hip is None else NONE),
            num_warps=settings["num_warps"] if scales is None else settings["code_warps"],
            num_stages=settings["num_stages"] if scales is None else 1,
            enable_fp_fusion=True,
        )
        if splits > 1:
            combine[(heads, sequences)](
                parts,
                part_sums,
                out,
                sums,
                splits,
                MOST=MOST_SPLITS,
                STEP=16,
                DIM=value_dim,
                WIDTH=triton.next_power_of_2(value_dim),
                enable_fp_fusion=True,
            )
    return out, sums


def _of_codes(scales: Scales) -> tuple[torch.Tensor, ...]:
    """Scales and zeros as the kernel takes them; where a form has no zeros, nobody looks at what stands for them."""
    key_zeros = scales.keys if scales.key_zeros is None else scales.key_zeros
    value_zeros = scales.values if scales.value_zeros is None else scales.value_zeros
    return scales.keys, scales.values, key_zeros, value_zeros


def _kind(scales: Scales, paged: Paged, dtype: torch.dtype) -> Mapping[str, object]:
    """What the kernel is compiled for."""
    words = scales.form == "int4" and all(
        step % 4 == 0
        for pool in (paged.keys, paged.values)
        for step in (pool.data_ptr(), pool.shape[3], *pool.stride()[:3])
    )
    assembly = words and not INTERPRETED and torch.version.hip is None
    return {
        "FORM": scales.form,
        "GROUP": scales.group,
        "WORDS": words,
        "EIGHTHS": eighths(dtype) if assembly else "",
    }


def _splits(device: torch.device, programs: int, tokens: int, settings: Settings) -> int:
    """How many programs share a sequence, from what the host knows: the table's room, not the lengths."""
    if INTERPRETED:
        return 2
    places = settings["waves"] * torch.cuda.get_device_properties(device).multi_processor_count
    most = max(1, min(ceil(tokens / settings["least_split"]), ceil(places / programs) * 2, MOST_SPLITS))
    return fewest_splits(programs, most, places)


@cache
def fewest_splits(programs: int, most: int, places: int) -> int:
    """The fewest splits, up to `most`, whose programs fill the last round of `places` about as well as any would."""

    def filled(splits: int) -> float:
        rounds = programs * splits / places
        return rounds / ceil(rounds)

    every = range(1, most + 1)
    best = max(map(filled, every))
    return next(splits for splits in every if filled(splits) >= 0.9 * best)


def _tile(paged: Paged, scales: Scales | None, row_bytes: int, settings: Settings) -> int:
    """Tokens of a step; of codes so few that all share a page and a group of keys, and so its scales."""
    narrow: int = max(1, triton.next_power_of_2(row_bytes) // 256)
    if scales is None:
        return max(16, settings["tile"] // narrow)
    return min(max(16, settings["code_tile"] // narrow), paged.tokens, scales.group)
