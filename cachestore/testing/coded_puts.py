"""What a store promises to those who put planes that they have coded themselves."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from cachestore.block import Block, Buffer
from cachestore.codecs import create
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.codecs.lossy import codec_for, settled
from cachestore.codecs.planes import encode_plane
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.store.base import PutStatus, Store
from cachestore.testing.blocks import plans_of, same, small_spec
from cachestore.testing.suite import StoreSuite

_UNKNOWN = 200


class CodedPutTests(StoreSuite):
    """`Put.write_encoded`."""

    @pytest.mark.parametrize("name", ["raw", "lz4", "entropy"])
    def test_coded_planes_are_read_as_they_were(self, store: Store, name: str) -> None:
        keys, blocks = self._compressible(3)
        coded = _coded(create(name), blocks)
        assert {each.codec for block in coded for each in block} == {create(name).id}
        count = len(blocks[0].planes)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            put.write_encoded(0, 0, *coded[0])
            # from behind, and its planes between those of another block, of which some come as they are
            put.write(2, 1, np.concatenate(blocks[2].data[1:3]))
            for plane in reversed(range(count)):
                put.write_encoded(1, plane, coded[1][plane])
                if plane not in (1, 2):
                    put.write_encoded(2, plane, coded[2][plane])
            if name != "raw":
                for each in (each for block in coded for each in block):
                    _wiped(each.stored)  # the bytes may be reused
            put.commit()
            assert [answer.status for answer in put.answers] == [PutStatus.STORED] * 3
        assert all(map(same, (block for block, _ in self.read(store, keys)), blocks))

    def test_a_put_says_what_codes_raw_planes(self, store: Store) -> None:
        keys, blocks = self.blocks(1)
        for name in ("raw", "entropy"):
            with store.put(keys.fingerprint, plans_of(blocks), codec=create(name)) as put:
                assert put.codec.id == create(name).id

    @pytest.mark.parametrize("recipe", ["quantisation=int8,group=32", "quantisation=fp8,format=e4m3,group=32"])
    def test_rounded_planes_are_read_as_they_were_rounded(self, store: Store, recipe: str) -> None:
        spec = replace(small_spec(block_tokens=64), recipe=recipe)
        codec = codec_for(spec)
        assert codec is not None
        keys, blocks = self.blocks(2, spec=spec)
        with store.put(keys.fingerprint, plans_of(blocks), codec=codec) as put:
            put.write_encoded(0, 0, *_coded(codec, blocks)[0])
            put.write(1, 0, np.concatenate(blocks[1].data))
            put.commit()
        rounded = [
            replace(block, data=[settled(codec, *pair) for pair in zip(block.data, block.planes, strict=True)])
            for block in blocks
        ]
        assert not same(rounded[0], blocks[0])
        assert all(map(same, (block for block, _ in self.read(store, keys)), rounded))

    @pytest.mark.parametrize("name", ["raw", "lz4"])
    @pytest.mark.parametrize("wrong", ["stored_checksum", "bytes"])
    def test_coded_planes_that_changed_on_their_way_fail_their_block_alone(
        self, store: Store, name: str, wrong: str
    ) -> None:
        keys, blocks = self._compressible(2)
        coded = _coded(create(name), blocks)
        each = coded[1][3]
        changed = each.stored.copy()
        changed[-1] ^= 1
        lie = each._replace(stored=changed) if wrong == "bytes" else each._replace(stored_checksum=1)
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            put.write_encoded(1, 0, *coded[1][:3], lie, *coded[1][4:])
            put.write_encoded(0, 0, *coded[0])
            put.commit()
            assert [answer.status for answer in put.answers] == [PutStatus.STORED, PutStatus.FAILED]
        assert store.lookup(keys).ready == 1

    def test_what_cannot_be_the_code_of_a_plane_is_refused(self, store: Store) -> None:
        keys, blocks = self._compressible(1)
        good = _coded(create("lz4"), blocks)[0]
        raw = _coded(create("raw"), blocks)[0]
        one, last = good[0], len(good) - 1
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            put.write_encoded(0, 1, good[1])
            refused: list[tuple[int, int, Sequence[Encoded], str]] = [
                (0, 0, (one._replace(raw_bytes=one.raw_bytes - 1),), "plane 0 of block 0 wants"),
                (0, 0, (one._replace(stored=np.zeros(one.raw_bytes + 1, np.uint8)),), "plane 0 of block 0 wants"),
                (0, 0, (one._replace(stored=one.stored[:0]),), "plane 0 of block 0 wants"),
                (0, 0, (one._replace(stored=one.stored.view(np.int8)),), "plane 0 of block 0 wants"),
                (0, 0, (one._replace(codec=_UNKNOWN),), f"plane 0 of block 0: codec {_UNKNOWN}"),
                (0, 0, (raw[0]._replace(stored=raw[0].stored[1:]),), f"codec {RAW}"),
                (0, 0, (), "encoded: 0 planes"),
                (0, last, (good[last], one), "encoded: 2 planes"),
                (0, 0, good[:2], "written before"),
                (0, 1, good[1:2], "written before"),
                (1, 0, good[:1], "block 1"),
                (0, last + 1, good[:1], "plane"),
            ]
            for block, plane, planes, why in refused:
                with pytest.raises(InvalidArgument, match=why):
                    put.write_encoded(block, plane, *planes)
            # of what was refused nothing was taken
            put.write_encoded(0, 0, one)
            put.write_encoded(0, 2, *good[2:])
            put.commit()
        assert same(self.read(store, keys)[0].block, blocks[0])
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            put.write_encoded(0, 0, *good)
            assert put.answers[0].status is PutStatus.ALREADY_EXISTS

    def _compressible(self, count: int) -> tuple[Chain, list[Block]]:
        """Blocks whose planes every codec makes smaller."""
        keys, blocks = self.blocks(count, spec=small_spec("bfloat16", block_tokens=64))
        for block in blocks:
            for data in block.data:
                data[: data.nbytes // 2] = 0
        return keys, blocks


def _coded(codec: Codec, blocks: Sequence[Block]) -> list[list[Encoded]]:
    return [[encode_plane(codec, *pair) for pair in zip(block.data, block.planes, strict=True)] for block in blocks]


def _wiped(stored: Buffer) -> None:
    if stored.flags.writeable:
        stored[:] = 0
