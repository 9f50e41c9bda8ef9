"""The codes that kernels write are those that the lossy codecs store."""

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Half, Slot
from cachestore.codecs.geometry import HEADER, Geometry
from cachestore.codecs.lossy import codec_for
from cachestore.recipe import canonical
from cachestore_kernels.quant import FORMS, Form, gather_quantised


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("half", [Half.K, Half.V])
def test_codes_are_those_of_the_codec(form: Form, half: Half) -> None:
    """What the kernels write is what a plane's codec stores, byte for byte, given its exponent."""
    name, suffix = ("fp8", f",format={form}") if form.startswith("e") else (form, "")
    spec = BlockSpec(
        model="m",
        revision="r",
        dtype="float16",
        slots=(Slot(kv_heads=2, key_dim=72, value_dim=72),),
        head_groups=1,
        block_tokens=48,
        recipe=canonical(f"quantisation={name},group=32{suffix}"),
    )
    plane = (torch.randn(1, 2, 48, 72) * 100).half()
    raw = plane.numpy().reshape(-1).view(np.uint8)
    codec = codec_for(spec)
    assert codec is not None
    stored = codec.encode(raw, next(p for p in spec.planes() if p.half is half))
    assert stored is not None
    exponent = Geometry.parse(stored).exponent
    exponents = torch.full((1, 1, 2), exponent, dtype=torch.int32)
    codes = gather_quantised([plane], [plane], torch.tensor([0]), form=form, group=32, exponents=exponents)
    side = 0 if half is Half.K else 1
    scales = (codes.key_scales, codes.value_scales)[side], (codes.key_zeros, codes.value_zeros)[side]
    parts = [*(part for part in scales if part is not None), codes.codes[:, :, side].contiguous()]
    ours = np.concatenate([part.numpy().reshape(-1).view(np.uint8) for part in parts])
    assert np.array_equal(stored[HEADER.size :], ours)
