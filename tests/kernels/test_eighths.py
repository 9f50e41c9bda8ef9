"""The assembly that takes int4 apart, executed instruction by instruction as PTX defines them."""

import re

import pytest
import torch

from cachestore_kernels.attention.decode.eighths import eighths


def execute(program: str, given: dict[str, int], dtype: torch.dtype) -> dict[str, int]:
    registers = dict(given)
    for line in re.sub(r"^{|}$", "", program).split(";"):
        name, *arguments = line.replace(",", " ").split() or [""]
        if name in ("", ".reg"):
            continue
        if name == "mov.b32" and arguments[0].startswith("{"):
            low, high, value = arguments
            registers[low.strip("{")], registers[high.strip("}")] = registers[value] & 0xFFFF, registers[value] >> 16
            continue
        to, values = arguments[0], [registers[a] if a in registers else int(a, 0) for a in arguments[1:]]
        match name.split("."):
            case ["mov", _]:
                registers[to] = values[0]
            case ["shr", _]:
                registers[to] = values[0] >> values[1]
            case ["lop3", _]:
                places = (sum((value >> bit & 1) << 2 - n for n, value in enumerate(values[:3])) for bit in range(32))
                registers[to] = sum((values[3] >> place & 1) << bit for bit, place in enumerate(places))
            case ["fma", "rn", _]:
                parts = torch.tensor([[v & 0xFFFF, v >> 16] for v in values]).to(torch.uint16).view(dtype).double()
                low, high = (parts[0] * parts[1] + parts[2]).to(dtype).view(torch.uint16).tolist()
                registers[to] = low | high << 16
            case _:
                raise AssertionError(line)
    return registers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_byte(dtype: torch.dtype) -> None:
    for first in range(256):
        codes = [first, (first + 85) % 256, first ^ 0xFF, first * 7 % 256]
        found = execute(eighths(dtype), {"$8": sum(code << 8 * n for n, code in enumerate(codes))}, dtype)
        numbers = torch.tensor([found[f"${n}"] for n in range(8)]).to(torch.uint16).view(dtype).tolist()
        assert numbers == [half - 8 for code in codes for half in (code & 15, code >> 4)]


def test_no_eighths_of_float32() -> None:
    assert eighths(torch.float32) == ""
