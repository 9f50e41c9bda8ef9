"""Fused kernels compiled for real architectures without a GPU: registers, spills, wide loads, prefetch."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("compiling.py")
ROOT = Path(__file__).resolve().parents[2]


def compiled(folder: Path, arch: str, *cases: str) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *filter(None, sys.path)])
    environment |= {"TRITON_CACHE_DIR": str(folder), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, str(PROGRAM), arch, *cases]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    kernels: list[dict[str, Any]] = json.loads(done.stdout)
    return kernels


def check(kernel: dict[str, Any]) -> None:
    assert kernel["STACK"] + kernel["LOCAL"] == 0, f"spills: {kernel}"
    assert kernel["REG"] <= (
        128 if kernel["kernel"] in ("_move", "_peak", "_split", "_pack", "_checksum", "combine") else 255
    ), kernel
    amd = kernel["arch"] == "gfx942"
    assert kernel["shared"] <= (64 if amd else 99) << 10, f"more shared memory than programs find: {kernel}"
    # rows of 40 bytes of codes are no whole vectors, and neither is one pair of channels; AMD's threads are more, so
    # that each has fewer of the bytes of codes
    bytes_alone = amd and kernel["kernel"] in ("_code", "_pack", "attend")
    if kernel["kernel"] != "combine" and kernel["case"] not in ("quant int4 fp16 80", "ones") and not bytes_alone:
        assert kernel["wide_loads"], f"no loads of 16 bytes: {kernel}"
    if kernel["kernel"] == "_move":
        assert kernel["wide_stores"], f"no stores of 16 bytes: {kernel}"
    bulk = "cp.async.bulk.prefetch.L2.global" if kernel["arch"] == "90" else "prefetch.global.L2"
    wanted = "prefetch" in kernel["case"] and kernel["kernel"] == "attend" and not amd
    assert kernel["prefetch"] == ([bulk] if wanted else [])


def test_steps_compile_nothing_anew(tmp_path: Path) -> None:
    kernels = compiled(tmp_path, "90", "decode steps", "prefill steps")
    names = Counter(name for name, _ in {(kernel["kernel"], kernel["hash"]) for kernel in kernels})
    assert names == {"attend": 1, "combine": 1, "_attend": 1}


def test_attention_keeps_memory_and_tensor_cores_busy(tmp_path: Path) -> None:
    decode, combine, prefill = compiled(tmp_path, "90", "decode bf16 128", "prefill bf16 128")
    assert combine["kernel"] == "combine"
    # two tiles of 64 tokens of K and V, so that one is on its way while another is computed with
    assert decode["shared"] >= 2 * 2 * 64 * 128 * 2
    assert prefill["wgmma"]


def test_some_for_hopper(tmp_path: Path) -> None:
    kernels = compiled(tmp_path, "90", "move bf16 128", "decode bf16 128 prefetch")
    assert [kernel["kernel"] for kernel in kernels] == ["_move", "_move", "attend", "combine"]
    for kernel in kernels:
        check(kernel)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("arch", ["80", "90", "gfx942"])
def test_all(arch: str, tmp_path: Path) -> None:
    if arch == "gfx942" and not find_spec("triton.backends.amd"):
        pytest.skip("the installed Triton cannot compile for AMD's architectures")
    kernels = compiled(tmp_path, arch)
    assert {kernel["kernel"] for kernel in kernels} >= {
        "_move",
        "_peak",
        "_code",
        "_split",
        "_pack",
        "_checksum",
        "attend",
        "_attend",
        "combine",
    }
    for kernel in kernels:
        check(kernel)
