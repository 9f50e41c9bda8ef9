"""How a word of int4 becomes eight numbers of 16 bits, in NVIDIA's assembly.

A code in the last bits of a number so large that they count ones is that number and the code; both halves of a register
at a time, which a compiler that sees one element at a time does not find.
"""

import torch

LARGE = {torch.bfloat16: 0x4300, torch.float16: 0x6400}
"""128 and 1024, whose last bit is one."""


def eighths(dtype: torch.dtype) -> str:
    """The codes of `$8`, last bits first, to `$0` to `$7`, less 8; "" for other dtypes."""
    if dtype not in LARGE:
        return ""
    kind = "bf16x2" if dtype == torch.bfloat16 else "f16x2"
    one, large = (0x3F80 if dtype == torch.bfloat16 else 0x3C00), LARGE[dtype]
    lines = [
        "{ .reg .b32 both, one, less;",
        f"mov.b32 one, {_twice(one)}; mov.b32 less, {_twice(0x8000 | large | 8)};",
    ]
    for code in range(4):
        lines += [
            f"shr.u32 both, $8, {4 * code};" if code else "mov.b32 both, $8;",
            f"lop3.b32 both, both, 0x000f000f, {_twice(large)}, 0xea;",
            f"fma.rn.{kind} both, both, one, less;",
            f"mov.b32 {{${code}, ${code + 4}}}, both;",
        ]
    return " ".join([*lines, "}"])


def _twice(half: int) -> str:
    return f"0x{half:04x}{half:04x}"
