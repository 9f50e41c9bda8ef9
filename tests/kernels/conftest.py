"""Fused kernels in Triton's interpreter, whatever else the process has imported, and on a CUDA device."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import pytest
import torch

import cachestore_kernels

ROOT = Path(cachestore_kernels.__file__).parent
FUSED = [".".join(("cachestore_kernels", *p.relative_to(ROOT).parent.parts, "fused")) for p in ROOT.rglob("fused.py")]


@contextmanager
def interpreting() -> Iterator[None]:
    """Every `fused` module imported anew with the interpreter on.

    Triton decides at each decoration, so this works after any other import of triton or of these modules, and
    what was imported before is put back afterwards, compiled as it was. Threads take turns: while a kernel runs, the
    interpreter has functions of its own in the place of Triton's.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        _take_turns(patch)
        for name in FUSED:
            patch.delitem(sys.modules, name, raising=False)
            patch.setattr(importlib.import_module(name.removesuffix(".fused")), "fused", None, raising=False)
        for name in FUSED:
            assert importlib.import_module(name).INTERPRETED, "Triton did not read TRITON_INTERPRET at import"
        yield
        for name in FUSED:
            del sys.modules[name]


def _take_turns(patch: pytest.MonkeyPatch) -> None:
    # how triton is imported first decides for the process
    from triton.runtime.interpreter import GridExecutor

    turn, call = RLock(), GridExecutor.__call__

    def in_turn(self: Any, *arguments: Any, **options: Any) -> None:
        with turn:
            call(self, *arguments, **options)

    patch.setattr(GridExecutor, "__call__", in_turn)


@pytest.fixture(scope="module")
def interpreted() -> Iterator[None]:
    """The interpreter for all tests of a file."""
    with interpreting():
        yield


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where fused kernels run: in the interpreter, and, where there is one, on a CUDA device."""
    if request.param == "cpu":
        with interpreting():
            yield "cpu"
    else:
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        with pytest.MonkeyPatch.context() as patch:
            # Triton warns while this is unset
            patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
            yield "cuda"


@pytest.fixture
def poisoned_memory(device: str) -> Iterator[None]:
    """On the host, new memory is full of NaN, or of the largest integers, so that an element nobody wrote shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device == "cpu" or before)
    yield
    torch.use_deterministic_algorithms(before)
