"""Between sealed blocks and raw pages.

A page holds the raw bytes of a block's planes back to back, in the order of its table. The header stays in host memory
in **raw form**: as it is, or would be, before the same planes stored without coding, so that a page can become a sealed
block again. What was sealed without coding comes back byte for byte, but for what lies between its planes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import accumulate, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachestore.block import Buffer, Half, PlaneId
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW
from cachestore.errors import InvalidArgument
from cachestore.hashing import KEY_BYTES
from cachestore.plane_table import Stored, table_of
from cachestore.seal import (
    ALIGN,
    ENCRYPTED,
    MAX_PAYLOAD,
    MAX_PLANES,
    OPAQUE,
    PARENT_BYTES,
    SHORT,
    CorruptBlock,
    Header,
    aligned,
    checksum,
)
from cachestore_kernels.checksum import checksum_planes, takes
from cachestore_kernels.method import Method

FUSED = find_spec("triton") is not None
"""Whether a device can take checksums itself."""


@dataclass(frozen=True, eq=False)
class DeviceBlock:
    """A block whose planes a worker has on the device, back to back in `tensor`, of any type or shape.

    `parent` is the front of the key before it, `expires` when it ends in milliseconds since 1970, 0 for never.
    """

    key: bytes
    token_count: int
    planes: tuple[PlaneId, ...]
    tensor: Tensor
    short: bool = False
    parent: bytes = bytes(PARENT_BYTES)
    expires: int = 0

    def __post_init__(self) -> None:
        nbytes = sum(plane.raw_bytes for plane in self.planes)
        payload = sum(aligned(plane.raw_bytes) for plane in self.planes)
        if not 1 <= len(self.planes) <= MAX_PLANES or min(self.planes, key=_raw).raw_bytes < 1 or payload > MAX_PAYLOAD:
            raise InvalidArgument(f"a block has 1 to {MAX_PLANES} planes of 1 byte or more and {MAX_PAYLOAD} in all")
        if len(self.key) != KEY_BYTES or len(self.parent) != PARENT_BYTES:
            raise InvalidArgument(f"a key has {KEY_BYTES} bytes and a parent {PARENT_BYTES}")
        if self.tensor.nbytes != nbytes:
            raise InvalidArgument(f"the block's planes want {nbytes} bytes, the tensor has {self.tensor.nbytes}")

    @property
    def flat(self) -> Tensor:
        """The planes as uint8, copied only where the tensor is not in one piece."""
        return self.tensor.detach().contiguous().reshape(-1).view(torch.uint8)

    def sealed(self, namespace: bytes, fingerprint: bytes, writer: bytes, sequence: int, sums: Sequence[int]) -> Header:
        """The block's header in raw form; `sums` are the checksums of its planes."""
        ends = np.cumsum([aligned(plane.raw_bytes) for plane in self.planes])
        stored = [
            Stored(RAW, int(end) - aligned(plane.raw_bytes), plane.raw_bytes, sum_, sum_)
            for end, plane, sum_ in zip(ends, self.planes, sums, strict=True)
        ]
        flags = (SHORT if self.short else 0) | (OPAQUE if self.planes[0].half is Half.OPAQUE else 0)
        return _packed(
            Header(
                namespace, self.key, fingerprint, self.token_count, table_of(self.planes, stored), writer, sequence,
                flags, int(ends[-1]), expires=self.expires, parent=self.parent,
            )
        )  # fmt: skip


def raw_form(header: Header) -> Header:
    """The header of the same block, its planes stored raw; CorruptBlock if they cannot be had."""
    table = header.table
    uncoded = table[table["codec"] == RAW]
    if header.flags & ENCRYPTED or not _as_they_are(uncoded) or None in map(by_id, set(table["codec"].tolist())):
        raise CorruptBlock("codec")
    if len(uncoded) == len(table):
        if not np.array_equal(table["stored_checksum"], table["raw_checksum"]):
            raise CorruptBlock("checksum")
        return header
    raw = table.copy()
    ends = np.cumsum((table["raw_bytes"].astype(np.int64) + ALIGN - 1) // ALIGN * ALIGN)
    if ends[-1] > MAX_PAYLOAD:
        raise CorruptBlock("header")
    raw["codec"], raw["stored_bytes"], raw["stored_checksum"] = RAW, table["raw_bytes"], table["raw_checksum"]
    raw["offset"] = np.concatenate([[0], ends[:-1]])
    return _packed(replace(header, table=raw, payload_bytes=int(ends[-1])))


def page_bytes(header: Header) -> int:
    """How large a page of this block is."""
    return int(header.table["raw_bytes"].sum())


def empty_block(header: Header) -> Buffer:
    """A sealed block of this header, its planes still to come."""
    gaps = page_bytes(header) != header.payload_bytes
    sealed: Buffer = (np.zeros if gaps else np.empty)(header.size + header.payload_bytes, dtype=np.uint8)
    sealed[: header.size] = np.frombuffer(header.packed, dtype=np.uint8)
    return sealed


def runs(header: Header) -> list[tuple[int, int, int]]:
    """What is in one piece both in the page and in the payload: (start in the page, offset in the payload, bytes)."""
    sizes: list[int] = header.table["raw_bytes"].tolist()
    found: list[tuple[int, int, int]] = []
    for start, offset, nbytes in zip(_starts(sizes), header.table["offset"].tolist(), sizes, strict=True):
        if found and found[-1][1] + found[-1][2] == offset:
            found[-1] = (*found[-1][:2], found[-1][2] + nbytes)
        else:
            found.append((start, offset, nbytes))
    return found


def page_checksums(page: Tensor, sizes: Sequence[int], method: Method | None = None) -> list[int]:
    """xxh3-64 of the planes of these sizes, back to back in `page`: on CUDA by a kernel, in host memory by xxhash.

    What the kernel does not take is copied to the host. `method` names a kernel's form wherever the page is.
    """
    sums: list[int] = []
    for start, count, nbytes in _alike(sizes):
        run = page[start : start + count * nbytes].view(count, nbytes)
        if takes(run) and (method is not None or (FUSED and run.is_cuda)):
            sums += checksum_planes(run, method=method).tolist()
        else:
            sums += [checksum(plane) for plane in run.cpu().numpy()]
    return sums


def _alike(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of planes of one size: where the run starts, how many planes, bytes of each."""
    start = 0
    for nbytes, planes in groupby(sizes):
        count = len(list(planes))
        yield start, count, nbytes
        start += count * nbytes


def _as_they_are(rows: NDArray[np.void]) -> bool:
    return np.array_equal(rows["stored_bytes"], rows["raw_bytes"])


def _starts(sizes: Sequence[int]) -> Iterable[int]:
    return accumulate(sizes[:-1], initial=0)


def _raw(plane: PlaneId) -> int:
    return plane.raw_bytes


def _packed(header: Header) -> Header:
    return replace(header, packed=header.pack())
