"""Sealed blocks for whoever stores them without a store around."""

import numpy as np

from cachestore.block import Buffer, Half, PlaneId
from cachestore.codecs.base import RAW
from cachestore.plane_table import Stored, table_of
from cachestore.seal import DURABLE, PARENT_BYTES, Header, aligned, checksum, header_bytes


def sealed_block(
    namespace: bytes,
    key: bytes,
    nbytes: int = 1000,
    seed: int = 0,
    *,
    planes: int = 2,
    expires: int = 0,
    durable: bool = False,
    parent: bytes = bytes(PARENT_BYTES),
) -> Buffer:
    """A block of two-byte values in `planes` planes, sealed under (`namespace`, `key`): about `nbytes` in all."""
    size = max(2, (nbytes - header_bytes(planes)) // planes // 64 * 64)
    raw = np.random.default_rng(seed).integers(0, 256, (planes, size), dtype=np.uint8)
    payload = np.zeros((planes, aligned(size)), dtype=np.uint8)
    payload[:, :size] = raw
    places = [PlaneId(slot, Half.K, 0, 2, size) for slot in range(planes)]
    stored = [
        Stored(RAW, index * aligned(size), size, checksum(row), checksum(row)) for index, row in enumerate(raw)
    ]  # fmt: skip
    header = Header(
        namespace, key, b"f" * 32, 64, table_of(places, stored), bytes(16), seed,
        DURABLE if durable else 0, payload.nbytes, expires=expires, parent=parent,
    )  # fmt: skip
    return np.concatenate([np.frombuffer(header.pack(), dtype=np.uint8), payload.reshape(-1)])
