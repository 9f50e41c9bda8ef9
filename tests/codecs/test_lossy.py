"""Quantised KV comes back within the bounds that its codec states, and as itself where it cannot be quantised."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Half, PlaneId, Slot
from cachestore.codecs import CODECS, by_id, create
from cachestore.codecs.affine import Int4, Int8
from cachestore.codecs.fp8 import Fp8
from cachestore.codecs.geometry import Geometry
from cachestore.codecs.grouped import Floats, narrow, widened
from cachestore.codecs.lossy import codec_for, settled
from cachestore.codecs.planes import encode_plane
from cachestore.codecs.raw import Raw
from cachestore.config import build_named
from cachestore.errors import ConfigError, InvalidArgument
from cachestore.seal import CorruptBlock, checksum
from cachestore.testing import LossyCodecTests, bf16_normal
from cachestore.testing.lossy import as_bytes


class AffineTests(LossyCodecTests):
    recipe = "quantisation=int8,group=64"
    steps = 255

    def allowed(self, values: Floats, least: Floats, most: Floats, largest: float) -> Floats:
        # half a scale; scales and zeros have eleven bits, fitted to the largest value of the plane
        coarse = np.abs(least) * np.float32(2.0**-10) + np.float32(largest * 2.0**-37)
        bound: Floats = (most - least + coarse) * np.float32(1.002 / 2 / self.steps) + np.float32(largest * 2.0**-37)
        return bound


class TestInt8(AffineTests):
    recipe = "quantisation=int8,group=64"


class TestInt8OfShortGroups(AffineTests):
    recipe = "quantisation=int8,group=33"


class TestInt4(AffineTests):
    recipe = "quantisation=int4,group=64"
    steps = 15


class TestInt4OfLongGroups(AffineTests):
    recipe = "quantisation=int4,group=128"
    steps = 15


class Fp8Tests(LossyCodecTests):
    recipe = "quantisation=fp8,format=e4m3,group=64"
    relative, tiny = 2.0**-4, 2.0**-10 / 448

    def allowed(self, values: Floats, least: Floats, most: Floats, largest: float) -> Floats:
        span = np.maximum(most, -least) * np.float32(1.002) + np.float32(largest * 2.0**-28)
        bound: Floats = np.maximum(np.abs(values) * np.float32(self.relative), span * np.float32(self.tiny))
        return bound


class TestE4m3(Fp8Tests):
    recipe = "quantisation=fp8,format=e4m3,group=64"


class TestE5m2(Fp8Tests):
    recipe = "quantisation=fp8,format=e5m2,group=32"
    relative, tiny = 2.0**-3, 2.0**-17 / 57344


SPEC = BlockSpec("org/model", "1" * 40, "bfloat16", (Slot(2, 64, 48),), 1, recipe="quantisation=int8,group=64")
DECODERS = [3, 4, 5]


def test_the_recipe_chooses_the_codec() -> None:
    assert codec_for(replace(SPEC, recipe="")) is None
    assert codec_for(SPEC) == Int8(SPEC, 64)
    four, fp8 = (replace(SPEC, recipe=f"quantisation={line}") for line in ("int4,group=32", "fp8,format=e5m2,group=64"))
    assert codec_for(four) == Int4(four, 32) and codec_for(fp8) == Fp8(fp8, 64, "e5m2")


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int8"])
def test_kv_of_one_byte_is_not_quantised_again(dtype: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"asks for int8, but spec\.dtype is {dtype}; .* bfloat16"):
        codec_for(replace(SPEC, dtype=dtype))


@pytest.mark.parametrize("name", ["fp8", "int8", "int4"])
def test_the_configuration_cannot_choose_a_lossy_codec(name: str) -> None:
    for choose in (lambda: build_named(CODECS, {"name": name}, "codecs"), lambda: create(name)):
        with pytest.raises(
            ConfigError, match=rf"codecs\.name = '{name}' .* 'quantisation={name}' into the spec's recipe"
        ):
            choose()
    assert CODECS.names() == ["entropy", "lz4", "raw"]


@pytest.mark.parametrize("number", DECODERS)
def test_a_codec_without_a_spec_only_decodes(number: int) -> None:
    decoder, raw = by_id(number), bf16_normal(4096)
    assert decoder is not None and decoder.lossy and decoder.id == number
    with pytest.raises(InvalidArgument, match="codec_for"):
        decoder.encode(raw, PlaneId(0, Half.K, 0, 2, raw.nbytes))


def test_a_plane_of_another_spec_is_refused() -> None:
    spec = replace(SPEC, slots=(Slot(2, 64, 48), Slot(2, 64, 0)))
    for slot, half, item_bytes, size in (
        (0, Half.K, 4, 512), (0, Half.V, 2, 256), (2, Half.K, 2, 256), (1, Half.V, 2, 256), (0, Half.OPAQUE, 2, 256)
    ):  # fmt: skip
        with pytest.raises(InvalidArgument, match="no plane of the codec's spec"):
            Int8(spec).encode(bf16_normal(size)[:size], PlaneId(slot, half, 0, item_bytes, size))


def test_lossless_values_are_settled_as_they_are() -> None:
    raw = bf16_normal(256)
    plane = PlaneId(0, Half.K, 0, 2, raw.nbytes)
    assert settled(Raw(), raw, plane) is raw and settled(create("entropy"), raw, plane) is raw


@pytest.mark.parametrize(("recipe", "most"), [("int8", 0.545), ("int4", 0.295), ("fp8,format=e4m3", 0.525)])
def test_planes_shrink_by_what_they_should(recipe: str, most: float) -> None:
    codec = codec_for(replace(SPEC, recipe=f"quantisation={recipe},group=64"))
    assert codec is not None
    for plane in SPEC.planes():
        raw = bf16_normal(plane.raw_bytes)[: plane.raw_bytes]
        assert encode_plane(codec, raw, plane).stored.nbytes < most * raw.nbytes


@pytest.mark.parametrize("number", DECODERS)
def test_which_zero_a_group_holds_changes_no_scale(number: int) -> None:
    """A minimum of zeros of both signs may be either, as the CPU likes."""
    plane = SPEC.planes()[0]
    codec = {3: Fp8(SPEC), 4: Int8(SPEC), 5: Int4(SPEC)}[number]
    stored = codec.encode(np.full(plane.raw_bytes // 2, 0x8000, dtype="<u2").view(np.uint8), plane)
    assert stored is not None
    geometry = Geometry.parse(stored)
    scales = sum(codec.sizes(geometry)[:-1])
    assert not stored[20 : 20 + scales].any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_value_is_widened_and_rounded_as_torch_does(dtype: str) -> None:
    kind = getattr(torch, dtype)
    words = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    finite = words[words.isfinite()].repeat_interleave(5) * torch.tensor(
        [1, 1.00390625, 1.001, 0.999, 1.01171875]
    ).repeat(int(words.isfinite().sum()))
    finite = finite[finite.to(kind).isfinite()].contiguous()
    out = np.empty(finite.numel() * kind.itemsize, dtype=np.uint8)
    narrow(finite.numpy(), out, dtype)
    assert np.array_equal(out, as_bytes(finite.numpy(), dtype))
    assert np.array_equal(widened(out, dtype), finite.to(kind).float().numpy())


@pytest.mark.parametrize("at", range(20))
@pytest.mark.parametrize("number", DECODERS)
def test_every_field_of_the_header_is_checked(number: int, at: int) -> None:
    spec = replace(SPEC, block_tokens=130)
    codec = {3: Fp8(spec), 4: Int8(spec), 5: Int4(spec)}[number]
    plane = spec.planes()[0]
    raw = bf16_normal(plane.raw_bytes)[: plane.raw_bytes]
    row = encode_plane(codec, raw, plane)
    for value in range(256):
        hostile = row.stored.copy()
        hostile[at] = value
        out = np.empty_like(raw)
        try:
            codec.decode(hostile, out, 2)
        except CorruptBlock:
            continue
        # what may be taken for right is right, or does not pass the checksum of what was written
        assert value == row.stored[at] or checksum(out) != row.raw_checksum
