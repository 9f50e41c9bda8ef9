"""The assembly that takes int4 apart, executed instruction by instruction as PTX defines them."""

import re

import pytest
import torch

from cachestore_kernels.attention.decode.halves import halves


def execute(program: str, given: dict[str, int], dtype: torch.dtype) -> dict[str, int]:
    registers = dict(given)
    for line in re.sub(r"[{}]", "", program).split(";"):
        name, *arguments = line.replace(",", " ").split() or [""]
        if name in ("", ".reg"):
            continue
        to, values = arguments[0], [registers[a] if a in registers else int(a, 0) for a in arguments[1:]]
        match name.split("."):
            case ["mov", _]:
                registers[to] = values[0]
            case ["shr", _]:
                registers[to] = values[0] >> values[1]
            case ["prmt", _]:
                both = values[0] | values[1] << 32
                registers[to] = sum((both >> 8 * (values[2] >> 4 * n & 7) & 0xFF) << 8 * n for n in range(4))
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
    for first in range(0, 256, 4):
        codes = range(first, first + 4)
        found = execute(halves(dtype), {"$4": sum(code << 8 * n for n, code in enumerate(codes))}, dtype)
        words = [half for name in ("$0", "$1", "$2", "$3") for half in (found[name] & 0xFFFF, found[name] >> 16)]
        numbers = torch.tensor(words).to(torch.uint16).view(dtype).tolist()
        assert numbers == [(code & 15) - 8 for code in codes] + [(code >> 4) - 8 for code in codes]


def test_no_halves_of_float32() -> None:
    assert halves(torch.float32) == ""
