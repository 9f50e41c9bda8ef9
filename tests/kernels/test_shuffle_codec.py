"""The bytes that kernels take apart are those of which the entropy codec codes the one and keeps the other."""

import numpy as np
import pytest
import torch
import zstandard

from cachestore.block import BlockSpec, Slot
from cachestore.codecs.entropy import Entropy
from cachestore_kernels.shuffle import gather_split


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bytes_are_those_of_the_codec(dtype: str) -> None:
    spec = BlockSpec(
        model="m", revision="r", dtype=dtype, slots=(Slot(kv_heads=2, key_dim=24, value_dim=24),), head_groups=1
    )
    keys = torch.randn(1, 2, spec.block_tokens, 24).to(getattr(torch, dtype))
    raw = keys.view(torch.uint8).numpy().reshape(-1)
    stored = Entropy().encode(raw, next(iter(spec.planes())))
    assert stored is not None
    split = gather_split([keys], [keys], torch.tensor([0]))
    exponents, mantissas = (part[:, :, 0].numpy().reshape(-1) for part in split)
    count = raw.nbytes // 2
    assert np.array_equal(stored[:count], mantissas)
    assert zstandard.decompress(stored[count:].tobytes()) == exponents.tobytes()
