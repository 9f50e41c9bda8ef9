"""Every codec gives back what it took, or says that it cannot."""

from pathlib import Path

import lz4.block
import numpy as np
import pytest

from cachestore.block import Buffer, Half, PlaneId
from cachestore.codecs import by_id, create
from cachestore.codecs.base import RAW
from cachestore.codecs.lz4 import LONGEST, Lz4
from cachestore.codecs.planes import encode_plane
from cachestore.codecs.raw import Raw
from cachestore.seal import CorruptBlock
from cachestore.testing import CodecTests, bf16_normal

FIXTURES = Path(__file__).parent / "fixtures"


def plane_of(raw: Buffer) -> PlaneId:
    return PlaneId(0, Half.K, 0, 2, raw.nbytes)


class TestRaw(CodecTests):
    codec = Raw()

    def test_it_neither_copies_nor_changes(self) -> None:
        raw = bf16_normal(64)
        encoded = encode_plane(self.codec, raw, plane_of(raw))
        assert encoded.stored is raw and encoded.codec == RAW


class TestLz4(CodecTests):
    codec = Lz4()

    def test_values_shrink_and_noise_is_stored_raw(self) -> None:
        values = bf16_normal(64 * 128)
        assert encode_plane(self.codec, values, plane_of(values)).stored.nbytes < 0.9 * values.nbytes
        noise = np.random.default_rng(0).integers(0, 256, 16384, dtype=np.uint8)
        assert encode_plane(self.codec, noise, plane_of(noise)).codec == RAW

    def test_what_does_not_pay_is_stored_raw(self) -> None:
        values = bf16_normal(64 * 128)
        assert encode_plane(Lz4(pays=0.1), values, plane_of(values)).codec == RAW
        assert encode_plane(Lz4(pays=1.0), values, plane_of(values)).codec == Lz4().id

    @pytest.mark.parametrize("size", [1 << 20, 1 << 31, LONGEST + 1])
    def test_a_bomb_is_refused_before_memory_is_taken(self, size: int) -> None:
        bomb = np.frombuffer(lz4.block.compress(bytes(1000), store_size=False), dtype=np.uint8)
        out = np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.uint8), (size,), (0,))
        with pytest.raises(CorruptBlock, match="codec"):
            self.codec.decode(bomb, out, 1)

    def test_a_width_of_nothing_is_refused(self) -> None:
        with pytest.raises(CorruptBlock, match="codec"):
            self.codec.decode(np.zeros(8, dtype=np.uint8), np.zeros(8, dtype=np.uint8), 0)


@pytest.mark.parametrize("name", ["raw", "lz4"])
def test_what_earlier_releases_wrote_still_decodes(name: str) -> None:
    raw = np.fromfile(FIXTURES / "bfloat16.raw", dtype=np.uint8)
    stored = np.fromfile(FIXTURES / f"bfloat16.{name}", dtype=np.uint8)
    out = np.empty_like(raw)
    create(name).decode(stored, out, 2)
    assert np.array_equal(out, raw)


def test_ids_keep_their_meaning() -> None:
    assert isinstance(by_id(0), Raw) and isinstance(by_id(1), Lz4)
    assert (create("raw").id, create("lz4").id) == (0, 1)
    assert by_id(2) is None and by_id(255) is None
