"""What every lossy codec promises."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Buffer, Half, PlaneId, Slot
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW
from cachestore.codecs.grouped import Floats
from cachestore.codecs.lossy import codec_for, settled
from cachestore.codecs.planes import encode_plane
from cachestore.seal import CorruptBlock
from cachestore.testing.codecs import Promises, normal


def as_float(raw: Buffer, dtype: str) -> Floats:
    """The values of a plane's bytes, in float32."""
    values: Floats = torch.from_numpy(raw.copy()).view(getattr(torch, dtype)).float().numpy()
    return values


def as_bytes(values: Floats, dtype: str) -> Buffer:
    """A plane's bytes for these values."""
    data: Buffer = torch.from_numpy(values.reshape(-1).copy()).to(getattr(torch, dtype)).view(torch.uint8).numpy()
    return data


class LossyCodecTests(Promises):
    """For codecs that a recipe names, in the class variable `recipe`.

    `allowed` says how far a value may come back from what it was, given the least and the largest of its group and the
    largest magnitude of its plane; rounding to the element type is allowed beside that.
    """

    recipe: ClassVar[str]

    @abstractmethod
    def allowed(self, values: Floats, least: Floats, most: Floats, largest: float) -> Floats:
        """How far each of these values may be off."""

    @staticmethod
    def spec(recipe: str, dtype: str = "bfloat16", key_dim: int = 64, value_dim: int = 48) -> BlockSpec:
        """Slots of four heads in two groups; values narrower than keys."""
        return BlockSpec("org/model", "1" * 40, dtype, (Slot(4, key_dim, value_dim),) * 2, 2, 70, recipe=recipe)

    def __init_subclass__(cls) -> None:
        codec = codec_for(cls.spec(cls.recipe))
        assert codec is not None
        cls.codec = codec

    def sample(self, seed: int = 0) -> tuple[PlaneId, Buffer]:
        plane = self.spec(self.recipe).planes()[seed % 8]
        return plane, normal("bfloat16", plane.raw_bytes // 2, seed)

    def back(self, plane: PlaneId, raw: Buffer) -> Buffer:
        return settled(self.codec, raw, plane)

    def test_it_says_that_it_is_lossy(self) -> None:
        assert self.codec.lossy

    @pytest.mark.parametrize("tokens", [1, 2, 31, 33, 63, 64, 65, 70])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_values_come_back_within_the_bound(self, dtype: str, tokens: int) -> None:
        self._within(self.spec(self.recipe, dtype), tokens, 1.0)

    @pytest.mark.parametrize(("key_dim", "value_dim"), [(1, 1), (7, 129), (128, 0), (31, 33), (576, 512)])
    def test_heads_of_any_width_come_back_within_the_bound(self, key_dim: int, value_dim: int) -> None:
        self._within(self.spec(self.recipe, "bfloat16", key_dim, value_dim), 65, 1.0)

    @pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e30])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_values_of_any_size_come_back_within_the_bound(self, dtype: str, size: float) -> None:
        self._within(self.spec(self.recipe, dtype), 64, size)

    def test_outliers_of_one_channel_do_no_harm_to_other_keys(self) -> None:
        spec = self.spec(self.recipe)
        plane = spec.planes()[0]
        values = np.random.default_rng(0).standard_normal((2, 70, 64)).astype(np.float32)
        alone = as_float(self.back(plane, as_bytes(values, "bfloat16")), "bfloat16").reshape(values.shape)
        values[:, :, 5] *= 1000
        beside = as_float(self.back(plane, as_bytes(values, "bfloat16")), "bfloat16").reshape(values.shape)
        others = np.arange(64) != 5
        assert np.allclose(alone[:, :, others], beside[:, :, others], rtol=0, atol=0.02)

    def test_zeros_come_back_as_zeros_beside_anything(self) -> None:
        for plane in self.spec(self.recipe).planes()[:4:2]:
            dim = 64 if plane.half is Half.K else 48
            values = np.random.default_rng(0).standard_normal((2, 70, dim)).astype(np.float32)
            empty = (slice(None), slice(None), 3) if plane.half is Half.K else (slice(None), 3)
            values[empty] = 0
            back = as_float(self.back(plane, as_bytes(values, "bfloat16")), "bfloat16").reshape(values.shape)
            assert not back[empty].any() and back.any()
            assert not self.back(plane, np.zeros(plane.raw_bytes, dtype=np.uint8)).any()

    @pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
    def test_a_plane_that_cannot_be_scaled_is_stored_as_it_is(self, value: float) -> None:
        for plane in self.spec(self.recipe).planes():
            raw = normal("bfloat16", plane.raw_bytes // 2)
            raw[10:12] = as_bytes(np.array([value], dtype=np.float32), "bfloat16")
            encoded = encode_plane(self.codec, raw, plane)
            assert encoded.codec == RAW and encoded.stored is raw
            assert np.array_equal(settled(self.codec, raw, plane), raw)

    def test_it_decodes_without_the_spec(self) -> None:
        plane, raw = self.sample()
        stored = self.codec.encode(raw, plane)
        decoder = by_id(self.codec.id)
        assert stored is not None and decoder is not None
        out = np.empty_like(raw)
        decoder.decode(stored, out, plane.item_bytes)
        assert np.array_equal(out, self.back(plane, raw)) and not np.array_equal(out, raw)

    def test_not_a_byte_more_nor_less_is_taken(self) -> None:
        plane, raw = self.sample()
        stored, out = self.codec.encode(raw, plane), np.empty_like(raw)
        assert stored is not None
        for wrong in (stored[:-1], np.append(stored, np.uint8(0)), stored[:10], stored[:0]):
            with pytest.raises(CorruptBlock, match="codec"):
                self.codec.decode(wrong, out, plane.item_bytes)

    @pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5])
    def test_short_blocks_never_grow(self, tokens: int) -> None:
        for plane in self.spec(self.recipe, key_dim=5, value_dim=3).planes(tokens):
            raw = normal("bfloat16", plane.raw_bytes // 2)
            codec = codec_for(self.spec(self.recipe, key_dim=5, value_dim=3))
            assert codec is not None
            stored = codec.encode(raw, plane)
            assert stored is None or stored.nbytes < raw.nbytes

    def test_a_bomb_is_refused_before_memory_is_taken(self) -> None:
        plane, raw = self.sample()
        stored = self.codec.encode(raw, plane)
        assert stored is not None
        bomb = stored.copy()
        bomb[8:20] = 255
        huge = np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.uint8), (1 << 40,), (0,))
        for each in (stored, bomb):
            with pytest.raises(CorruptBlock, match="codec"):
                self.codec.decode(each, huge, plane.item_bytes)

    def _within(self, spec: BlockSpec, tokens: int, size: float) -> None:
        """Whether all planes of one slot come back within the bound, at values of about `size`."""
        codec = codec_for(spec)
        assert codec is not None
        for plane in spec.planes(tokens)[:4]:
            count = plane.raw_bytes // plane.item_bytes
            raw = as_bytes(as_float(normal("float32", count, seed=tokens), "float32") * np.float32(size), spec.dtype)
            before = as_float(raw, spec.dtype).reshape(2, tokens, -1)
            after = as_float(settled(codec, raw, plane), spec.dtype).reshape(before.shape)
            axis, group = 1 if plane.half is Half.K else 2, int(self.recipe.rpartition("=")[2])
            cuts = range(group, before.shape[axis], group)
            for was, now in zip(np.split(before, cuts, axis), np.split(after, cuts, axis), strict=True):
                least, most = was.min(axis=axis, keepdims=True), was.max(axis=axis, keepdims=True)
                largest = float(np.abs(before).max())
                rounding = {"float32": 2.0**-22, "bfloat16": 2.0**-9, "float16": 2.0**-11}[spec.dtype]
                bound = self.allowed(was, least, most, largest) + rounding * (np.abs(was) + (most - least))
                assert (np.abs(now - was) <= bound).all()
