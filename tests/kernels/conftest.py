"""Fused kernels in Triton's interpreter, whatever else the process has imported."""

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def interpreted() -> Iterator[ModuleType]:
    """`cachestore_kernels.paged.fused` imported anew with the interpreter on.

    Triton decides at each decoration, so this works after any other import of triton or of this module, and
    what was imported before is put back afterwards, compiled as it was.
    """
    name = "cachestore_kernels.paged.fused"
    package = importlib.import_module("cachestore_kernels.paged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, name, raising=False)
        patch.setattr(package, "fused", None, raising=False)
        fused = importlib.import_module(name)
        assert fused.INTERPRETED, "Triton did not read TRITON_INTERPRET at import"
        yield fused
        del sys.modules[name]
