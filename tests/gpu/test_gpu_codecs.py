"""Codecs on a CUDA device: what they store and read there is what they do on the host."""

from dataclasses import replace

import pytest

from cachestore.codecs.entropy import Entropy
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.lz4 import Lz4
from tests.codecs.test_pages import SPEC, check_both_ways

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("recipe", ["int8,group=32", "int4,group=64", "fp8,format=e4m3,group=32"])
def test_lossy_planes(recipe: str, dtype: str) -> None:
    spec = replace(SPEC, dtype=dtype, recipe=f"quantisation={recipe}")
    codec = codec_for(spec)
    assert codec is not None
    check_both_ways(codec, spec, None, {codec.id}, "cuda")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lossless_planes(dtype: str) -> None:
    spec = replace(SPEC, dtype=dtype)
    check_both_ways(Entropy(), spec, None, {2}, "cuda")
    check_both_ways(Lz4(), spec, None, {0, 1}, "cuda")
