"""What every codec promises."""

from typing import ClassVar

import numpy as np
import pytest

from cachestore.block import Buffer, Half, PlaneId
from cachestore.codecs.base import Codec
from cachestore.codecs.planes import decode_plane, encode_plane
from cachestore.seal import CorruptBlock, Stored, checksum


def bf16_normal(count: int, seed: int = 0) -> Buffer:
    """Normally distributed bfloat16 values, which is what KV looks like."""
    values = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)
    return np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8)


def special_floats(dtype: str) -> Buffer:
    """NaNs with payloads, infinities, negative zero, subnormals."""
    words = {"<u2": [0x7FC1, 0xFFFF, 0x7F80, 0x8000, 1], "<u4": [0x7FC00001, 0xFFFFFFFF, 0x7F800000, 0x80000000, 1]}
    return np.array(words[dtype] * 50, dtype=dtype).view(np.uint8)


class CodecTests:
    """Subclasses say which codec it is, in the class variable `codec`."""

    codec: ClassVar[Codec]

    def coded(self, raw: Buffer, item_bytes: int) -> tuple[PlaneId, Stored, Buffer]:
        plane = PlaneId(0, Half.K, 0, item_bytes, raw.nbytes)
        encoded = encode_plane(self.codec, raw, plane)
        sums = encoded.stored_checksum, encoded.raw_checksum
        assert sums == (checksum(encoded.stored), checksum(raw)) and encoded.raw_bytes == raw.nbytes
        assert encoded.stored.nbytes <= raw.nbytes
        return plane, Stored(encoded.codec, 0, encoded.stored.nbytes, *sums), encoded.stored

    def returns(self, raw: Buffer, item_bytes: int) -> None:
        plane, row, stored = self.coded(raw, item_bytes)
        out = np.full(raw.nbytes, 0xAA, dtype=np.uint8)
        frozen = np.frombuffer(stored.tobytes(), dtype=np.uint8)  # read-only, as bytes from a socket are
        decode_plane(plane, row, frozen, out)
        assert np.array_equal(out, raw)

    @pytest.mark.parametrize("item_bytes", [1, 2, 4])
    @pytest.mark.parametrize("elements", [1, 2, 3, 63, 64, 8192])
    def test_random_bytes_zeros_and_values_come_back(self, elements: int, item_bytes: int) -> None:
        size = elements * item_bytes
        self.returns(np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8), item_bytes)
        self.returns(np.zeros(size, dtype=np.uint8), item_bytes)
        self.returns(bf16_normal(size)[:size], item_bytes)

    @pytest.mark.parametrize("dtype", ["<u2", "<u4"])
    def test_special_values_come_back_bit_by_bit(self, dtype: str) -> None:
        self.returns(special_floats(dtype), int(dtype[-1]))

    @pytest.mark.parametrize("item_bytes", [1, 2, 3, 4, 8, 255])
    def test_any_size_of_any_width_comes_back(self, item_bytes: int) -> None:
        random = np.random.default_rng(item_bytes)
        for size in [*range(1, 40), *random.integers(1, 2000, 40)]:
            self.returns(random.integers(0, 3, size, dtype=np.uint8), item_bytes)

    def test_the_input_stays_as_it_is(self) -> None:
        raw = bf16_normal(4096)
        before = raw.copy()
        self.coded(raw, 2)
        assert np.array_equal(raw, before)

    @pytest.mark.parametrize("seed", range(12))
    def test_hostile_bytes_never_pass(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        raw = bf16_normal(256, seed) if seed % 2 else np.zeros(512, dtype=np.uint8)
        plane, row, stored = self.coded(raw, 2)
        for _ in range(250):
            hostile = mutated(stored, random)
            out = np.empty(raw.nbytes, dtype=np.uint8)
            try:
                decode_plane(plane, row, hostile, out)
            except CorruptBlock:
                continue
            assert np.array_equal(out, raw)

    def test_a_table_that_lies_never_passes(self) -> None:
        raw = bf16_normal(2048)
        plane, row, stored = self.coded(raw, 2)
        for size in (1, raw.nbytes - 2, raw.nbytes + 2, 1 << 20):
            lying = plane._replace(raw_bytes=size)
            with pytest.raises(CorruptBlock):
                decode_plane(lying, row, stored, np.empty(size, dtype=np.uint8))
            with pytest.raises(CorruptBlock):
                decode_plane(plane, row, stored, np.empty(size, dtype=np.uint8))
        for wrong in (row._replace(codec=200), row._replace(raw_checksum=row.raw_checksum ^ 1)):
            with pytest.raises(CorruptBlock):
                decode_plane(plane, wrong, stored, np.empty(raw.nbytes, dtype=np.uint8))


def mutated(stored: Buffer, random: np.random.Generator) -> Buffer:
    """The same bytes with something wrong: flipped, cut, longer, moved, replaced."""
    data = stored.copy()
    match random.integers(0, 6):
        case 0:
            data[random.integers(0, data.size)] ^= np.uint8(1 << random.integers(0, 8))
        case 1:
            data = data[: random.integers(0, data.size)]
        case 2:
            data = np.concatenate([data, random.integers(0, 256, random.integers(1, 40), dtype=np.uint8)])
        case 3:
            data = np.roll(data, random.integers(1, 9))
        case 4:
            start = random.integers(0, data.size)
            data[start : start + 16] = 255
        case _:
            data = random.integers(0, 256, data.size, dtype=np.uint8)
    return data
