"""Every codec gives back what it took, or says that it cannot."""

import os
import tracemalloc
from pathlib import Path

import lz4.block
import numpy as np
import pytest
import torch
import zstandard

from cachestore.block import ITEM_BYTES
from cachestore.codecs import by_id, create
from cachestore.codecs.affine import Int4, Int8
from cachestore.codecs.base import RAW
from cachestore.codecs.entropy import Entropy
from cachestore.codecs.fp8 import Fp8
from cachestore.codecs.lz4 import LONGEST, Lz4
from cachestore.codecs.planes import encode_plane
from cachestore.codecs.raw import Raw
from cachestore.errors import ConfigError
from cachestore.seal import CorruptBlock
from cachestore.testing import CodecTests, bf16_normal
from cachestore.testing.codecs import normal, plane_of


class TestRaw(CodecTests):
    codec = Raw()

    def test_it_neither_copies_nor_changes(self) -> None:
        raw = bf16_normal(64)
        encoded = encode_plane(self.codec, raw, plane_of(raw, 2))
        assert encoded.stored is raw and encoded.codec == RAW


class TestLz4(CodecTests):
    codec = Lz4()

    def test_values_shrink_and_noise_is_stored_raw(self) -> None:
        values = bf16_normal(64 * 128)
        assert encode_plane(self.codec, values, plane_of(values, 2)).stored.nbytes < 0.9 * values.nbytes
        noise = np.random.default_rng(0).integers(0, 256, 16384, dtype=np.uint8)
        assert encode_plane(self.codec, noise, plane_of(noise, 2)).codec == RAW

    def test_what_does_not_pay_is_stored_raw(self) -> None:
        values = bf16_normal(64 * 128)
        assert encode_plane(Lz4(pays=0.1), values, plane_of(values, 2)).codec == RAW
        assert encode_plane(Lz4(pays=1.0), values, plane_of(values, 2)).codec == Lz4().id

    @pytest.mark.parametrize("size", [1 << 20, 1 << 31, LONGEST + 1])
    def test_a_bomb_is_refused_before_memory_is_taken(self, size: int) -> None:
        bomb = np.frombuffer(lz4.block.compress(bytes(1000), store_size=False), dtype=np.uint8)
        out = np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.uint8), (size,), (0,))
        with pytest.raises(CorruptBlock, match="codec"):
            self.codec.decode(bomb, out, 1)

    def test_a_width_of_nothing_is_refused(self) -> None:
        with pytest.raises(CorruptBlock, match="codec"):
            self.codec.decode(np.zeros(8, dtype=np.uint8), np.zeros(8, dtype=np.uint8), 0)


class TestEntropy(CodecTests):
    codec = Entropy()

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
    def test_it_comes_near_the_bound_that_exponents_set(self, dtype: str) -> None:
        raw = normal(dtype, 32768)
        width = ITEM_BYTES[dtype]
        words, mantissa, exponent = (
            raw.view(f"<u{width}"),
            *{"bfloat16": (7, 8), "float16": (10, 5), "float32": (23, 8)}[dtype],
        )
        shares = np.bincount(words >> mantissa & (1 << exponent) - 1) / words.size
        entropy = -sum(share * np.log2(share) for share in shares if share)
        bound = 8 * width / (8 * width - exponent + entropy)
        assert raw.nbytes / encode_plane(self.codec, raw, plane_of(raw, width)).stored.nbytes > 0.99 * bound

    def test_elements_of_one_byte_shrink_too(self) -> None:
        raw = torch.from_numpy(normal("float32", 65536).view(np.float32).copy()).to(torch.float8_e4m3fn)
        data = raw.view(torch.uint8).numpy()
        assert encode_plane(self.codec, data, plane_of(data, 1)).stored.nbytes < 0.85 * data.nbytes

    def test_what_does_not_pay_is_stored_raw(self) -> None:
        values = bf16_normal(8192)
        assert encode_plane(Entropy(pays=0.5), values, plane_of(values, 2)).codec == RAW
        noise = np.random.default_rng(0).integers(0, 256, 16384, dtype=np.uint8)
        for width in (1, 2, 4):
            assert encode_plane(Entropy(pays=1.0), noise, plane_of(noise, width)).codec == RAW

    @pytest.mark.parametrize("pays", [0, -1, 1.1])
    def test_nothing_may_grow(self, pays: float) -> None:
        with pytest.raises(ConfigError, match=r"codecs\.pays"):
            Entropy(pays=pays)

    @pytest.mark.parametrize("item_bytes", [0, 1, 2, 4])
    @pytest.mark.parametrize("size", [1000, 1 << 20, 1 << 31, 1 << 40])
    def test_a_bomb_is_refused_before_memory_is_taken(self, size: int, item_bytes: int) -> None:
        out = np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.uint8), (size,), (0,))
        bombs = [frame(says, window) for says in (size, 1 << 29) for window in (10, 27)]
        before = address_space()
        for bomb in [*bombs, *(bomb[:-3] for bomb in bombs)]:
            tracemalloc.start()
            try:
                with pytest.raises(CorruptBlock, match="codec"):
                    self.codec.decode(np.frombuffer(bomb, dtype=np.uint8), out, item_bytes)
                assert tracemalloc.get_traced_memory()[1] < 2 << 20
            finally:
                tracemalloc.stop()
        assert address_space() - before < 32 << 20

    @pytest.mark.parametrize("bad", ["no size", "two frames", "skippable", "dictionary", "checksum cut"])
    def test_frames_that_no_encoder_of_ours_writes_are_refused(self, bad: str) -> None:
        plain = bytes(1000)
        right = zstandard.ZstdCompressor().compress(plain)
        hostile = {
            "no size": zstandard.ZstdCompressor(write_content_size=False).compress(plain),
            "two frames": right + right,
            "skippable": (0x184D2A50).to_bytes(4, "little") + (1000).to_bytes(4, "little") + plain,
            "dictionary": right[:4] + bytes([right[4] | 1, 7]) + right[5:],
            "checksum cut": zstandard.ZstdCompressor(write_checksum=True).compress(plain)[:-2],
        }[bad]
        out = np.empty(1000, dtype=np.uint8)
        self.codec.decode(np.frombuffer(right, dtype=np.uint8), out, 1)
        assert not out.any()
        with pytest.raises(CorruptBlock, match="codec"):
            self.codec.decode(np.frombuffer(hostile, dtype=np.uint8), out, 1)


def address_space() -> int:
    """Bytes that this process has asked for."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def frame(size: int, window: int) -> bytes:
    """The head of a Zstandard frame that claims `size` bytes and a window of two to `window`, and one empty block."""
    return b"\x28\xb5\x2f\xfd\xc0" + bytes([(window - 10) << 3]) + size.to_bytes(8, "little") + b"\x01\x00\x00"


def test_ids_keep_their_meaning() -> None:
    kinds = {0: Raw, 1: Lz4, 2: Entropy, 3: Fp8, 4: Int8, 5: Int4}
    for number, kind in kinds.items():
        codec = by_id(number)
        assert isinstance(codec, kind) and codec.id == number
    assert [create(name).id for name in ("raw", "lz4", "entropy")] == [0, 1, 2]
    assert by_id(6) is None and by_id(255) is None
