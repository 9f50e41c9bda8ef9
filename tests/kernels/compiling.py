"""Compile fused kernels ahead of time, without a GPU, and print what became of each as JSON.

    python tests/kernels/compiling.py ARCH [CASE ...]

ARCH is 80 or 90 for NVIDIA's, gfx942 for AMD's. Of the latter REG are vector registers, and STACK is scratch memory.

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

from tests.kernels import compiled_calls, compiled_steps

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Target:
    """Stands for a driver whose device is of one architecture."""

    def __init__(self, arch: str) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("hip", self.arch, 64) if self.arch.startswith("gfx") else GPUTarget("cuda", int(self.arch), 32)


def read(kernel: Any) -> dict[str, Any]:
    """Registers, stack, how many loads and stores are 16 bytes wide, which prefetches there are, and wgmma."""
    return read_amd(kernel.asm["amdgcn"]) if "amdgcn" in kernel.asm else read_nvidia(kernel)


def read_amd(code: str) -> dict[str, Any]:
    metadata = code[code.rindex(".amdgpu_metadata") :]
    counts = {
        name: int(re.findall(rf"\.{field}:\s*(\d+)", metadata)[0])
        for name, field in (("REG", "vgpr_count"), ("STACK", "private_segment_fixed_size"))
    }
    loads, stores = (len(re.findall(rf"(?:global|buffer|flat)_{kind}_dwordx4", code)) for kind in ("load", "store"))
    return {"wide_loads": loads, "wide_stores": stores, "prefetch": [], "wgmma": 0, "LOCAL": 0, **counts}


def read_nvidia(kernel: Any) -> dict[str, Any]:
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
        "wide_loads": len(loads),
        "wide_stores": len(stores),
        "prefetch": sorted(set(prefetch)),
        "wgmma": ptx.count("wgmma.mma_async"),
        "divisions": ptx.count("div.rn.f32"),
        "conversions": sorted(set(re.findall(r"cvt\.\S+\.e[45]m[23]x2\.f32", ptx))),
        **resources,
    }


def main(arch: str, wanted: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    case = ""
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        about = {"kernel": self.fn.__name__, "case": case, "arch": arch, "shared": kernel.metadata.shared}
        about["hash"] = kernel.hash
        found.append(about | read(kernel))

    JITFunction.run = compile_only
    driver.set_active(Target(arch))
    amd = arch.startswith("gfx")
    capability = (9, 4) if amd else divmod(int(arch), 10)
    torch.cuda.get_device_capability = lambda device=None: capability  # type: ignore[assignment]
    torch.version.hip = "" if amd else None

    def fused(package: str, device: torch.device, method: str | None) -> ModuleType:
        return import_module(f"{package}.fused")

    for module in compiled_calls.MODULES:
        module.choose = fused
    for case, call in {**compiled_calls.CALLS, **compiled_steps.CALLS}.items():
        if not wanted or case in wanted:
            call()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
