"""What any release wrote decodes bit by bit, for ever.

In `fixtures/`, `SOURCE.raw` holds the bytes of planes, and `SOURCE.CODEC` what a lossless codec stored for them.
`SOURCE-HALF.CASE.lossy` is what a lossy codec stored for as many of them as its plane has, and `.settled` beside it
what must come back. After a new codec, this writes what is not there yet; what is there stays as it is:

    PYTHONPATH=. python tests/codecs/test_fixtures.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Buffer, Half, PlaneId, Slot
from cachestore.codecs import by_id, create
from cachestore.codecs.base import Codec
from cachestore.codecs.lossy import codec_for, settled
from cachestore.testing.codecs import normal, plane_of

FIXTURES = Path(__file__).parent / "fixtures"
SOURCES = {"bfloat16": 2, "float16": 2, "float32": 4, "float8": 1}
LOSSLESS = ["bfloat16.lz4", "bfloat16.entropy", "float16.entropy", "float32.entropy", "float8.entropy"]
RECIPES = {
    "e4m3": "quantisation=fp8,format=e4m3,group=64",
    "e5m2": "quantisation=fp8,format=e5m2,group=32",
    "int8": "quantisation=int8,group=64",
    "int4": "quantisation=int4,group=32",
}
IDS = {"e4m3": 3, "e5m2": 3, "int8": 4, "int4": 5}
LOSSY = [
    f"{source}-{half}.{case}"
    for source, cases in {"bfloat16": RECIPES, "float16": ["int8"], "float32": ["int8"]}.items()
    for case in cases
    for half in ("k", "v")
]


def bytes_of(name: str) -> Buffer:
    return np.fromfile(FIXTURES / name, dtype=np.uint8)


def lossy_case(name: str) -> tuple[Codec, PlaneId, Buffer]:
    """The codec of a lossy fixture, made from a spec of odd sizes; the plane, and its bytes before coding."""
    place, case = name.split(".")
    source, half = place.split("-")
    codec = codec_for(spec := BlockSpec("a", "1", source, (Slot(1, 31, 67),), 1, 33, recipe=RECIPES[case]))
    assert codec is not None
    plane = spec.planes()[Half[half.upper()]]
    return codec, plane, bytes_of(f"{source}.raw")[: plane.raw_bytes]


@pytest.mark.parametrize("name", [*LOSSLESS, "bfloat16.raw"])
def test_what_lossless_codecs_wrote_is_what_they_took(name: str) -> None:
    source, codec = name.split(".")
    raw = bytes_of(f"{source}.raw")
    out = np.empty_like(raw)
    create(codec).decode(bytes_of(name), out, SOURCES[source])
    assert np.array_equal(out, raw)


@pytest.mark.parametrize("name", LOSSY)
def test_what_lossy_codecs_wrote_is_what_their_writer_went_on_from(name: str) -> None:
    right = bytes_of(f"{name}.settled")
    decoder, out = by_id(IDS[name.split(".")[1]]), np.empty_like(right)
    assert decoder is not None
    decoder.decode(bytes_of(f"{name}.lossy"), out, SOURCES[name.split("-")[0]])
    assert np.array_equal(out, right)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_codecs_write_the_same_bytes_on_every_machine(name: str) -> None:
    codec, plane, raw = lossy_case(name)
    stored = codec.encode(raw, plane)
    assert stored is not None and np.array_equal(stored, bytes_of(f"{name}.lossy"))


def write_missing() -> None:
    """Makes the fixtures that are not there."""

    def write(name: str, data: Buffer | None) -> None:
        assert data is not None, f"{name} does not pay"
        if not (FIXTURES / name).exists():
            data.tofile(FIXTURES / name)

    for source, width in SOURCES.items():
        raw = normal("float32" if width == 1 else source, 8192 if source == "bfloat16" else 4096)
        if width == 1:
            raw = torch.from_numpy(raw.view(np.float32)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        write(f"{source}.raw", raw)
    for name in LOSSLESS:
        source, codec = name.split(".")
        raw = bytes_of(f"{source}.raw")
        write(name, create(codec).encode(raw, plane_of(raw, SOURCES[source])))
    for name in LOSSY:
        lossy, plane, raw = lossy_case(name)
        write(f"{name}.lossy", lossy.encode(raw, plane))
        write(f"{name}.settled", settled(lossy, raw, plane))


if __name__ == "__main__":
    write_missing()
