"""What every codec promises."""

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import ClassVar

import numpy as np
import pytest

from cachestore.block import ITEM_BYTES, Buffer, Half, PlaneId
from cachestore.codecs.base import Codec
from cachestore.codecs.planes import decode_plane, encode_plane
from cachestore.plane_table import Stored
from cachestore.seal import CorruptBlock, checksum


def bf16_normal(count: int, seed: int = 0) -> Buffer:
    """Normally distributed bfloat16 values, which is what KV looks like."""
    values = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)
    return np.ascontiguousarray(values.view(np.uint16)[1::2]).view(np.uint8)


def normal(dtype: str, count: int, seed: int = 0) -> Buffer:
    """Normally distributed values of any type that a lossy codec takes."""
    if dtype == "bfloat16":
        return bf16_normal(2 * count, seed)[: 2 * count]
    return np.random.default_rng(seed).standard_normal(count).astype(dtype).view(np.uint8)


def special_floats(dtype: str) -> Buffer:
    """NaNs with payloads, infinities, negative zero, subnormals."""
    words = {"<u2": [0x7FC1, 0xFFFF, 0x7F80, 0x8000, 1], "<u4": [0x7FC00001, 0xFFFFFFFF, 0x7F800000, 0x80000000, 1]}
    return np.array(words[dtype] * 50, dtype=dtype).view(np.uint8)


class Promises(ABC):
    """What holds for every codec. Decoded is compared with what `back` says must come back."""

    codec: ClassVar[Codec]

    @abstractmethod
    def sample(self, seed: int = 0) -> tuple[PlaneId, Buffer]:
        """A plane of values."""

    def back(self, plane: PlaneId, raw: Buffer) -> Buffer:
        """What a reader must get."""
        return raw

    def coded(self, plane: PlaneId, raw: Buffer) -> tuple[Stored, Buffer]:
        encoded = encode_plane(self.codec, raw, plane)
        sums = encoded.stored_checksum, encoded.raw_checksum
        assert sums == (checksum(encoded.stored), checksum(self.back(plane, raw))) and encoded.raw_bytes == raw.nbytes
        assert encoded.stored.nbytes <= raw.nbytes
        return Stored(encoded.codec, 0, encoded.stored.nbytes, *sums), encoded.stored

    def test_the_input_stays_as_it_is(self) -> None:
        plane, raw = self.sample()
        before = raw.copy()
        self.coded(plane, raw)
        assert np.array_equal(raw, before)

    def test_input_that_cannot_be_written_to_and_lies_anywhere_is_taken(self) -> None:
        plane, raw = self.sample()
        for shift in (1, 2, 3):
            buffer = np.frombuffer(bytes(shift) + raw.tobytes(), dtype=np.uint8)[shift:]
            row, stored = self.coded(plane, buffer)
            elsewhere = np.frombuffer(bytes(shift) + stored.tobytes(), dtype=np.uint8)[shift:]
            out = np.empty(shift + raw.nbytes, dtype=np.uint8)[shift:]
            decode_plane(plane, row, elsewhere, out)
            assert np.array_equal(out, self.back(plane, raw))

    @pytest.mark.parametrize("seed", range(12))
    def test_hostile_bytes_never_pass(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        plane, raw = self.sample(seed)
        if not seed % 2:
            raw = np.zeros_like(raw)
        row, stored = self.coded(plane, raw)
        for _ in range(250):
            hostile = mutated(stored, random)
            out = np.empty(raw.nbytes, dtype=np.uint8)
            try:
                decode_plane(plane, row, hostile, out)
            except CorruptBlock:
                continue
            assert np.array_equal(out, self.back(plane, raw))

    def test_a_table_that_lies_never_passes(self) -> None:
        plane, raw = self.sample()
        row, stored = self.coded(plane, raw)
        for size in (1, raw.nbytes - 2, raw.nbytes + 2, 1 << 20):
            lying = plane._replace(raw_bytes=size)
            with pytest.raises(CorruptBlock):
                decode_plane(lying, row, stored, np.empty(size, dtype=np.uint8))
            with pytest.raises(CorruptBlock):
                decode_plane(plane, row, stored, np.empty(size, dtype=np.uint8))
        for wrong in (row._replace(codec=200), row._replace(raw_checksum=row.raw_checksum ^ 1)):
            with pytest.raises(CorruptBlock):
                decode_plane(plane, wrong, stored, np.empty(raw.nbytes, dtype=np.uint8))

    def test_several_threads_use_it_at_once(self) -> None:
        samples = [self.sample(seed) for seed in range(32)]
        alone = [self.coded(*sample)[1].tobytes() for sample in samples]

        def both_ways(sample: tuple[PlaneId, Buffer]) -> bytes:
            plane, raw = sample
            row, stored = self.coded(plane, raw)
            out = np.empty_like(raw)
            decode_plane(plane, row, stored, out)
            assert np.array_equal(out, self.back(plane, raw))
            return stored.tobytes()

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(both_ways, samples * 4)) == alone * 4

    def test_bytes_that_change_while_they_are_decoded_do_no_harm(self) -> None:
        plane, raw = self.sample()
        row, stored = self.coded(plane, raw)
        right, shared, over = self.back(plane, raw), stored.copy(), Event()

        def disturb() -> None:
            random = np.random.default_rng(0)
            while not over.is_set():
                place = slice(at := int(random.integers(0, shared.size)), at + int(random.integers(1, 64)))
                shared[place] = random.integers(0, 256, shared[place].size, dtype=np.uint8)
                shared[:] = stored

        disturber = Thread(target=disturb)
        disturber.start()
        try:
            for _ in range(300):
                out = np.empty_like(raw)
                try:
                    decode_plane(plane, row, shared, out)
                except CorruptBlock:
                    continue
                assert np.array_equal(out, right)
        finally:
            over.set()
            disturber.join()


class CodecTests(Promises):
    """For codecs that lose nothing. Subclasses say which one it is, in the class variable `codec`."""

    def sample(self, seed: int = 0) -> tuple[PlaneId, Buffer]:
        raw = bf16_normal(2048, seed)
        return plane_of(raw, 2), raw

    def returns(self, raw: Buffer, item_bytes: int) -> None:
        plane = plane_of(raw, item_bytes)
        row, stored = self.coded(plane, raw)
        out = np.full(raw.nbytes, 0xAA, dtype=np.uint8)
        frozen = np.frombuffer(stored.tobytes(), dtype=np.uint8)  # read-only, as bytes from a socket are
        decode_plane(plane, row, frozen, out)
        assert np.array_equal(out, raw)

    def test_it_is_lossless(self) -> None:
        assert not self.codec.lossy

    @pytest.mark.parametrize("item_bytes", [1, 2, 4])
    @pytest.mark.parametrize("elements", [1, 2, 3, 63, 64, 8192])
    def test_random_bytes_zeros_and_values_come_back(self, elements: int, item_bytes: int) -> None:
        size = elements * item_bytes
        self.returns(np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8), item_bytes)
        self.returns(np.zeros(size, dtype=np.uint8), item_bytes)
        self.returns(bf16_normal(size)[:size], item_bytes)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_values_of_every_type_come_back(self, dtype: str) -> None:
        self.returns(normal(dtype, 40_000), ITEM_BYTES[dtype])

    @pytest.mark.parametrize("dtype", ["<u2", "<u4"])
    def test_special_values_come_back_bit_by_bit(self, dtype: str) -> None:
        self.returns(special_floats(dtype), int(dtype[-1]))

    def test_every_value_of_two_bytes_comes_back(self) -> None:
        self.returns(np.arange(1 << 16).astype("<u2").view(np.uint8), 2)
        self.returns(np.repeat(np.arange(1 << 16), 3).astype("<u2").view(np.uint8), 2)

    @pytest.mark.parametrize("item_bytes", [1, 2, 3, 4, 8, 255])
    def test_any_size_of_any_width_comes_back(self, item_bytes: int) -> None:
        random = np.random.default_rng(item_bytes)
        for size in [*range(1, 40), *random.integers(1, 2000, 40)]:
            self.returns(random.integers(0, 3, size, dtype=np.uint8), item_bytes)


def plane_of(raw: Buffer, item_bytes: int) -> PlaneId:
    """A plane for `raw`, somewhere."""
    return PlaneId(0, Half.K, 0, item_bytes, raw.nbytes)


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
