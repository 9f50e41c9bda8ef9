"""One sealed block on its way from another node: what a client would decode, a node keeps as it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from cachestore.block import WHOLE, Buffer
from cachestore.seal import DURABLE, CorruptBlock, Header
from cachestore.service.ranges import ranges
from cachestore.store.inspection import intact


@dataclass(eq=False)
class ArrivingBlock:
    """Memory for the block that `header` describes; `targets` are the ranges of its payload that are sent, in order."""

    header: Header
    sealed: Buffer
    targets: list[Buffer]
    _came: int = 0

    @classmethod
    def of(cls, packed: bytes, namespace: bytes, key: bytes, fingerprint: bytes, largest: int) -> Self:
        """CorruptBlock unless this is the header of the block that was asked for, of `largest` bytes at most."""
        header = Header.parse(packed)
        header.check_identity(namespace, key, fingerprint)
        size = header.size + header.payload_bytes
        if size > largest:
            raise CorruptBlock("size")
        sent = ranges(header, WHOLE)
        # what lies between them is not sent: zeros, since others are given it and nothing of this process may be there
        whole = sum(end - start for start, end in sent) == header.payload_bytes
        sealed: Buffer = (np.empty if whole else np.zeros)(size, dtype=np.uint8)
        payload = sealed[header.size :]
        return cls(header, sealed, [payload[start:end] for start, end in sent])

    def fill(self, take: Callable[[Buffer], object]) -> None:
        """`take` fills the targets, in order."""
        for target in self.targets:
            take(target)
            self._came += target.nbytes

    def put(self, offset: int, data: Buffer) -> None:
        """Some bytes of the payload, wherever they belong; CorruptBlock if that is nowhere."""
        payload = self.sealed[self.header.size :]
        if offset + data.nbytes > payload.nbytes:
            raise CorruptBlock("foreign")
        np.copyto(payload[offset : offset + data.nbytes], data)
        self._came += data.nbytes

    def whole(self) -> Buffer:
        """The sealed block once all has come; CorruptBlock if its bytes are not those that were stored.

        What a node holds elsewhere is a copy to who reads it: it promises nothing, and is not durable here.
        """
        header = self.header
        if self._came < sum(target.nbytes for target in self.targets):
            raise CorruptBlock("truncated")
        if header.flags & DURABLE:
            packed = replace(header, flags=header.flags & ~DURABLE).pack()
        else:
            packed = header.packed
        self.sealed[: header.size] = np.frombuffer(packed, dtype=np.uint8)
        if not intact(header, self.sealed[header.size :]):
            raise CorruptBlock("checksum")
        return self.sealed
