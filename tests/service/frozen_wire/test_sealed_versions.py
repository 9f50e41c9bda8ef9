"""Blocks that earlier versions sealed: each version of the header is read, with every codec and flag of its time.

The bytes in `sealed/` were made by the code of that time. Plane number n of each holds `arange(size) // 16 + n`.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cachestore.block import Buffer
from cachestore.codecs.planes import decode_planes
from cachestore.seal import DURABLE, ENCRYPTED, OPAQUE, SHORT, VERSION, Header
from cachestore.sealing import Sealer

SEALED = {path.stem: path for path in sorted(Path(__file__).with_name("sealed").glob("*.bin"))}
SEALER = Sealer({3: bytes(range(32))}, 3)
FLAGS = {"short": SHORT, "opaque": OPAQUE, "durable": DURABLE, "encrypted": ENCRYPTED}


def named(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


@pytest.mark.parametrize("name", SEALED)
def test_it_is_read(name: str) -> None:
    kind = name.partition("-")[2]
    sealed: Buffer = np.frombuffer(SEALED[name].read_bytes(), dtype=np.uint8)
    assert Header.parse(sealed).flags == FLAGS.get(kind, 0)
    if kind == "encrypted":
        sealed = SEALER.open(sealed, named("namespace"), named(f"key {kind}"))
    header = Header.parse(sealed)
    header.check_identity(named("namespace"), named(f"key {kind}"), named("fingerprint"))
    assert header.token_count == (3 if kind == "short" else 8)
    if kind == "durable":
        assert (header.expires, header.parent) == (4_102_444_800_000, named("parent")[:16])
    planes = header.planes()
    out: Buffer = np.empty(sum(plane.raw_bytes for plane in planes), dtype=np.uint8)
    decode_planes(header, range(len(planes)), sealed[header.size :], out)
    wanted = [(np.arange(plane.raw_bytes) // 16 + number).astype(np.uint8) for number, plane in enumerate(planes)]
    assert np.array_equal(out, np.concatenate(wanted))


def test_there_are_some_of_every_version() -> None:
    versions = {int(name.partition("-")[0].removeprefix("v")) for name in SEALED}
    assert versions == set(range(1, VERSION + 1))
