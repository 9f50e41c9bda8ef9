"""Which implementation of an operation runs: its oracle `naive`, or its Triton kernels `fused`."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

import torch

Method = Literal["naive", "fused"]


def choose(package: str, device: torch.device, method: Method | None) -> ModuleType:
    """The module `naive` or `fused` of `package`: for None, fused on CUDA where Triton is installed, else naive.

    ValueError for another method, and for fused on a CPU without Triton's interpreter.
    """
    on_cuda = device.type == "cuda"
    if method is None:
        method = "fused" if on_cuda and find_spec("triton") else "naive"
    if method not in ("naive", "fused"):
        raise ValueError(f"method: 'naive', 'fused' or None, not {method!r}")
    module = import_module(f"{package}.{method}")
    if method == "fused" and not on_cuda and not module.INTERPRETED:
        raise ValueError(
            f"method: 'fused' on {device} runs only in Triton's interpreter; "
            "set TRITON_INTERPRET=1 before the first use, or pass method='naive'"
        )
    return module
