"""Compile fused kernels ahead of time, without a GPU, and print what became of each as JSON.

    python tests/kernels/compiling.py ARCH [CASE ...]

Run as a program, in a process of its own: with the interpreter on, nothing compiles. The operations themselves are
called, on tensors of the host, and each launch compiles for the architecture instead: so what is checked is what would
run there, with the divisibility that Triton finds in the arguments.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tests.kernels import compiled_calls

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Target:
    """Stands for a driver whose device is of one architecture."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def read(name: str, case: str, arch: int, kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        usage = subprocess.check_output([CUOBJDUMP, "-res-usage", cubin.name], text=True)
    resources = {key: int(count) for key, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = kernel.asm["ptx"]
    loads = re.findall(r"ld\.global\S*\.v(?:4\.b32|2\.b64)|cp\.async\.c[ag]\.shared\.global .*0x10", ptx)
    stores = re.findall(r"st\.global\S*\.v(?:4\.b32|2\.b64)", ptx)
    prefetch = re.findall(r"cp\.async\.bulk\.prefetch\.L2\.global|prefetch\.global\.L2", ptx)
    return {
        "kernel": name,
        "case": case,
        "arch": arch,
        "shared": kernel.metadata.shared,
        "wide_loads": len(loads),
        "wide_stores": len(stores),
        "prefetch": sorted(set(prefetch)),
        **resources,
    }


def main(arch: int, wanted: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    case = ""
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found.append(read(self.fn.__name__, case, arch, kernel))

    JITFunction.run = compile_only
    driver.set_active(Target(arch))
    torch.cuda.get_device_capability = lambda device=None: divmod(arch, 10)  # type: ignore[assignment]

    def fused(package: str, device: torch.device, method: str | None) -> ModuleType:
        return import_module(f"{package}.fused")

    for module in compiled_calls.MODULES:
        module.choose = fused
    for case, call in compiled_calls.CALLS.items():
        if not wanted or case in wanted:
            call()
    return found


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), sys.argv[2:])))
