"""How four bytes of int4 become eight numbers of 16 bits, in NVIDIA's assembly.

A code in the last bits of a number so large that they count ones is that number and the code; both halves of a register
at a time, which a compiler that sees one element at a time does not find.
"""

import torch

LARGE = {torch.bfloat16: 0x4300, torch.float16: 0x6400}
"""128 and 1024, whose last bit is one."""


def halves(dtype: torch.dtype) -> str:
    """Four bytes `$4` to their first codes `$0`, `$1` and their second ones `$2`, `$3`, less 8; "" for other dtypes."""
    if dtype not in LARGE:
        return ""
    kind = "bf16x2" if dtype == torch.bfloat16 else "f16x2"
    one, large = (0x3F80 if dtype == torch.bfloat16 else 0x3C00), LARGE[dtype]
    lines = [
        "{ .reg .b32 first, second, one, less;",
        f"mov.b32 one, {_twice(one)}; mov.b32 less, {_twice(0x8000 | large | 8)};",
        # a byte in each half of a register
        "prmt.b32 first, $4, 0, 0x4140; prmt.b32 second, $4, 0, 0x4342;",
        *(f"lop3.b32 {to}, {of}, 0x000f000f, {_twice(large)}, 0xea;" for to, of in (("$0", "first"), ("$1", "second"))),
        "shr.u32 first, first, 4; shr.u32 second, second, 4;",
        *(f"lop3.b32 {to}, {of}, 0x000f000f, {_twice(large)}, 0xea;" for to, of in (("$2", "first"), ("$3", "second"))),
        *(f"fma.rn.{kind} {to}, {to}, one, less;" for to in ("$0", "$1", "$2", "$3")),
        "}",
    ]
    return " ".join(lines)


def _twice(half: int) -> str:
    return f"0x{half:04x}{half:04x}"
