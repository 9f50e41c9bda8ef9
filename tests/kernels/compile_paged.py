"""Compile the fused paged kernel ahead of time, without a GPU, and print what became of it as JSON.

Run as a program, in a process of its own: with the interpreter on, nothing compiles.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cachestore_kernels.paged import fused

TYPES = {"planes": "*i64", "pages": "*i64", "page_count": "i32", "rows": "i32", "tiles": "i32"}
STRIDES = ("page_stride", "head_stride", "token_stride")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

# name: element, head_dim, rows of a tile, type of the strides, arguments specialised because they are 1
SHAPES: dict[str, tuple[str, int, int, str, tuple[str, ...]]] = {
    "bf16-128": ("i16", 128, 32, "i32", ()),
    "bf16-80": ("i16", 80, 32, "i64", ()),
    "fp32-40": ("i32", 40, 32, "i32", ()),
    "fp8-96-ones": ("i8", 96, 64, "i32", ("page_count", "rows", "tiles", *STRIDES)),
}


def compiled(arch: int, shape: str, into_pages: bool) -> dict[str, Any]:
    element, head_dim, tile_rows, stride, ones = SHAPES[shape]
    bytes_each = int(element[1:]) // 8
    constants = {
        "INTO_PAGES": into_pages,
        "STEP": 16 // bytes_each,
        "TOKENS": 64,
        "HEAD_DIM": head_dim,
        "ROWS": tile_rows,
        "WIDTH": triton.next_power_of_2(head_dim),
        **dict.fromkeys(ones, 1),
    }
    types = {**TYPES, "blocks": f"*{element}", **dict.fromkeys(STRIDES, stride)}
    names = fused._move.arg_names
    source = ASTSource(
        fused._move,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in ("planes", "pages", "blocks")},
    )
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        usage = subprocess.check_output([CUOBJDUMP, "-res-usage", cubin.name], text=True)
    resources = {name: int(count) for name, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = kernel.asm["ptx"]
    wide = {kind: len(re.findall(rf"{kind}\.global\S*\.v4\.b32", ptx)) for kind in ("ld", "st")}
    return {"arch": arch, "shape": shape, "into_pages": into_pages, **resources, **wide}


if __name__ == "__main__":
    archs = [int(argument) for argument in sys.argv[1:]]
    print(json.dumps([compiled(a, shape, into) for a in archs for shape in SHAPES for into in (False, True)]))
