"""How kernels are launched: tiles, warps and stages, by operation and architecture. Nothing is tried out in a request.

`python -m benchmarks.kernels --gpu --tune` tries what may be better on a device, and prints lines for `TUNED`. Sizes
are powers of two. No setting changes more of a result than the order in which attention adds up.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import torch
import triton

Settings = Mapping[str, int]

DEFAULTS: Final[Mapping[str, Settings]] = {
    "paged": {"tile_bytes": 8192, "num_warps": 4},
    "quant": {"value_rows": 64, "value_warps": 2, "num_warps": 4},
    "quant.peaks": {"tile_bytes": 8192, "num_warps": 4},
    "shuffle.split": {"tile_bytes": 8192, "num_warps": 4},
    "shuffle.pack": {"num_warps": 8},
    "rope": {"tile_bytes": 4096, "num_warps": 4},
    "checksum": {"runs": 4, "num_warps": 1},
    "decode": {
        "tile": 64,
        "code_tile": 64,
        "code_warps": 4,
        "ahead": 4,
        "waves": 3,
        "least_split": 256,
        "num_warps": 4,
        "num_stages": 3,
    },
    "prefill": {"rows": 128, "tile": 64, "num_warps": 8, "num_stages": 2},
}
"""Chosen from compiled registers and shared memory, for architectures that nobody has measured.

tile_bytes: what a program moves at once. value_rows, value_warps: tokens of a program that codes values, and its warps.
runs: pieces of 1024 bytes in flight. tile: tokens of a step of attention, code_tile of pages that hold codes, both for
rows of up to 256 bytes and halved beyond. code_warps: of a program that reads codes. ahead: tiles between what is
prefetched into L2 and what is computed, more than the loads themselves keep in flight. waves: programs that fit on a
multiprocessor at once: splits of a sequence fill whole rounds of them.
least_split: tokens that a split has at least, as below that combining costs more than it wins. rows: of a tile of
prefill, a row being one head of one token.
"""

TUNED: dict[tuple[str, int], Settings] = {
    ("prefill", 80): {"rows": 128, "tile": 32, "num_warps": 8, "num_stages": 3},  # the defaults would spill
    ("prefill", 94): {"rows": 128, "tile": 32, "num_warps": 8, "num_stages": 2},  # the defaults would spill
}
"""(operation, architecture) -> what is better there: fastest when measured, or whole in registers when compiled."""


def launch(operation: str, device: torch.device) -> Settings:
    """The settings of `operation` on `device`; in Triton's interpreter the defaults."""
    if not triton.knobs.runtime.interpret:
        return TUNED.get((operation, architecture(device)), DEFAULTS[operation])
    return DEFAULTS[operation]


@cache
def architecture(device: torch.device) -> int:
    """10 · major + minor of the compute capability: 90 of an H200, 94 of an MI300 (gfx942)."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
