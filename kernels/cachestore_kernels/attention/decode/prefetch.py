"""How rows of KV are asked into the L2 cache (arXiv 2504.06319): the instruction, and how often a row needs it."""

from collections.abc import Mapping
from math import ceil

import torch

from cachestore_kernels.attention.paging import Paged

LINE = 128
"""Bytes of a line of L2, which the instruction of architectures before Hopper brings in."""

NONE: Mapping[str, object] = {"PREFETCH": "", "KEY_LINES": 1, "VALUE_LINES": 1, "LINE_ITEMS": 1}
"""No prefetch, as arguments of the kernel."""


def prefetching(paged: Paged) -> Mapping[str, object]:
    """Arguments of the kernel: rows whole on Hopper and later where K and V are alike and aligned, else by lines."""
    item = paged.keys.element_size()
    key_bytes, value_bytes = (pool.shape[3] * item for pool in (paged.keys, paged.values))
    aligned = all(
        step % 16 == 0
        for pool in (paged.keys, paged.values)
        for step in (pool.data_ptr(), key_bytes, *(stride * item for stride in pool.stride()[:3]))
    )
    if torch.cuda.get_device_capability(paged.keys.device)[0] >= 9 and key_bytes == value_bytes and aligned:
        return {**NONE, "PREFETCH": _where_wanted(f"cp.async.bulk.prefetch.L2.global [$1], {key_bytes};")}
    # a power of two of lines, the kernel's ranges being such; what lies behind the row asks for its last line again
    key_lines, value_lines = (1 << (ceil(size / LINE) - 1).bit_length() for size in (key_bytes, value_bytes))
    asm = _where_wanted("prefetch.global.L2 [$1];")
    return {"PREFETCH": asm, "KEY_LINES": key_lines, "VALUE_LINES": value_lines, "LINE_ITEMS": LINE // item}


def _where_wanted(instruction: str) -> str:
    """The instruction under a condition, with the result that inline assembly has to have."""
    return f"{{ .reg .pred wanted; setp.ne.u32 wanted, $2, 0; @wanted {instruction} mov.u32 $0, 0; }}"
