"""The blocks of one read as they come on its gRPC stream."""

import time
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, Mismatch, Unavailable
from cachestore.seal import ENCRYPTED, CorruptBlock, Header
from cachestore.service import convert
from cachestore.service.connection import Connection
from cachestore.service.frames import BlockFrame
from cachestore.service.landing import Landing
from cachestore.service.transport import Asked, Broken
from cachestore.store.base import Loaded
from cachestore.store.received import Received
from cachestore.wire import store_pb2 as wire

RESUMES = 4
"""How often a read whose connection breaks is taken up again."""

RESUME_PAUSE = 0.15
"""Seconds between two tries, a little more than the first pause before a channel connects again."""


def begin(connection: Connection, request: wire.ReadRequest, deadline: Deadline) -> tuple[Any, wire.Granted]:
    """Asks for blocks and waits for the lease on them; the call goes on. Raises if the store cannot be asked."""
    with connection.errors("Read"):
        call = connection.read(request, timeout=max(deadline.remaining(), 1e-3))
        first = next(call, None)
    if not isinstance(first, wire.ReadResponse) or not first.HasField("granted"):
        call.cancel()
        raise Mismatch(f"the store at {connection.address} did not begin a read with its lease")
    return call, first.granted


def resumed(asked: Asked, lease: bytes, number: int) -> wire.ReadRequest:
    """Asks for the blocks from `number` on again, under the same lease."""
    return wire.ReadRequest(
        chain=convert.chain_message(asked.chain),
        part=convert.part_message(asked.part),
        lease=lease,
        resume=wire.Resume(key=asked.chain.keys[number]),
    )


class Lacking(Exception):
    """The store left out bytes that are not here."""


class StreamSource:
    """One read; what breaks is asked for again under the same lease."""

    def __init__(
        self, connection: Connection, asked: Asked, deadline: Deadline, received: Mapping[int, Received] | None = None
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._deadline = deadline
        # what came of blocks before they were published, by number
        self._received = received or {}
        self._call: Any = None
        self._lease = b""
        self._resumes_left = RESUMES

    @property
    def lease(self) -> bytes:
        return self._lease

    def open(self, request: wire.ReadRequest) -> None:
        """Asks for the blocks and waits for the lease on them; raises if the store cannot be asked."""
        self.go_on(*begin(self._connection, request, self._deadline))

    def go_on(self, call: Any, granted: wire.Granted) -> None:
        """Takes the blocks from a call that has begun."""
        self._call, self._lease = call, granted.lease

    def load(self, number: int, into: Buffer | None) -> Loaded | None:
        while True:
            try:
                return self._block(number, into)
            except Lacking:
                self.close()
                self._resume(number)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    return None
                self._resume(number)

    def close(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _resume(self, number: int) -> None:
        """Asks for the blocks from `number` on again."""
        request = resumed(self._asked, self._lease, number)
        while self._resumes_left:
            self._resumes_left -= 1
            try:
                self.open(request)
                return
            except Unavailable:
                # the channel may not have noticed yet that its connection is gone, or not have a new one
                time.sleep(min(RESUME_PAUSE, self._deadline.remaining()))
            except CacheStoreError as error:
                raise Broken from error
        raise Broken

    def _block(self, number: int, into: Buffer | None) -> Loaded | None:
        message = next(self._call, None)
        if not isinstance(message, wire.ReadResponse) or not message.HasField("start"):
            return None
        start = message.start
        if start.block != number:
            raise CorruptBlock("foreign")
        header = Header.parse(start.header)
        header.check_identity(header.namespace, self._asked.chain.keys[number], self._asked.chain.fingerprint)
        if header.flags & ENCRYPTED:
            raise CorruptBlock("codec")
        if start.known:
            return self._known(header, start, into)
        landing = Landing(header, self._asked.part, into)
        for offset, memory in landing.targets:
            at = 0
            while at < memory.nbytes:
                frame = next(self._call, None)
                if not isinstance(frame, BlockFrame):
                    return None
                size = frame.data.nbytes
                if frame.head.block != number or frame.head.offset != offset + at or not 0 < size <= memory.nbytes - at:
                    raise CorruptBlock("foreign")
                np.copyto(memory[at : at + size], frame.data)
                at += size
        return Loaded(landing.block(), start.tier) if self._sent() else None

    def _known(self, header: Header, start: wire.BlockStart, into: Buffer | None) -> Loaded | None:
        """A block whose planes came before it was published; Lacking if one of them did not hold."""
        received = self._received.get(start.block)
        block = received.block(header, into) if received is not None else None
        if block is None:
            raise Lacking
        return Loaded(block, start.tier) if self._sent() else None

    def _sent(self) -> bool:
        """Whether the block that came was all there."""
        last = next(self._call, None)
        return isinstance(last, wire.ReadResponse) and last.HasField("end") and last.end.status == wire.SENT
