"""The blocks of one read as they come on its gRPC stream."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, Mismatch, Unavailable
from cachestore.seal import ENCRYPTED, CorruptBlock, Header, digest
from cachestore.service import convert
from cachestore.service.connection import Connection
from cachestore.service.landing import Landing, Target
from cachestore.service.stream.frames import BlockFrame
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


def resumed(asked: Asked, lease: bytes, number: int, digest: bytes = b"", offset: int = 0) -> wire.ReadRequest:
    """Asks for the blocks from `number` on again, under the same lease; of one known by its digest only the rest."""
    return wire.ReadRequest(
        chain=convert.chain_message(asked.chain),
        part=convert.part_message(asked.part),
        lease=lease,
        resume=wire.Resume(key=asked.chain.keys[number], digest=digest, offset=offset),
    )


class Lacking(Exception):
    """What the store left out is not here, or of another block than what it sends now: this one must come whole."""


class Ended(Exception):
    """The store ended the read before the block did."""


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
            except Ended:
                return None
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

    def _resume(self, number: int, digest: bytes = b"", offset: int = 0) -> None:
        """Asks for the blocks from `number` on again, of the first only what is behind `offset`."""
        request = resumed(self._asked, self._lease, number, digest, offset)
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
        frames = _Frames(self._bytes(start, landing.targets))
        landing.fill(frames.fill)
        behind = max((target.start + target.memory.nbytes for target in landing.targets), default=0)
        return Loaded(landing.block(), start.tier) if _is_sent(self._message(start, behind)) else None

    def _bytes(self, start: wire.BlockStart, targets: Sequence[Target]) -> Iterator[Buffer]:
        """The bytes of a block as they come, for these targets; what has come is not asked for again."""
        for target in targets:
            at, end = target.start, target.start + target.memory.nbytes
            while at < end:
                frame = self._message(start, at)
                if not isinstance(frame, BlockFrame):
                    raise Ended
                size = frame.data.nbytes
                if frame.head.block != start.block or frame.head.offset != at or not 0 < size <= end - at:
                    raise CorruptBlock("foreign")
                yield frame.data
                at += size

    def _message(self, start: wire.BlockStart, at: int) -> Any:
        """What comes when the block came up to `at` of its payload."""
        again = False
        while True:
            try:
                message = next(self._call, None)
                if again and isinstance(message, wire.ReadResponse) and message.HasField("start"):
                    if message.start.header != start.header:
                        raise Lacking
                    message = next(self._call, None)
                return message
            except grpc.RpcError as error:
                if again and error.code() is grpc.StatusCode.ABORTED:
                    raise Lacking from error
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self._resume(start.block, digest(start.header), at)
                again = True

    def _known(self, header: Header, start: wire.BlockStart, into: Buffer | None) -> Loaded | None:
        """A block whose planes came before it was published; Lacking if one of them did not hold."""
        received = self._received.get(start.block)
        block = received.block(header, into) if received is not None else None
        if block is None:
            raise Lacking
        return Loaded(block, start.tier) if _is_sent(next(self._call, None)) else None


def _is_sent(message: Any) -> bool:
    """Whether the block that came was all there."""
    return isinstance(message, wire.ReadResponse) and message.HasField("end") and message.end.status == wire.SENT


class _Frames:
    """Fills memory from frames that end elsewhere than it does."""

    def __init__(self, frames: Iterator[Buffer]) -> None:
        self._frames = frames
        self._left: Buffer = _NOTHING

    def fill(self, memory: Buffer) -> None:
        filled = 0
        while filled < memory.nbytes:
            if not self._left.nbytes:
                self._left = next(self._frames)
            size = min(self._left.nbytes, memory.nbytes - filled)
            np.copyto(memory[filled : filled + size], self._left[:size])
            self._left = self._left[size:]
            filled += size


_NOTHING: Buffer = np.empty(0, dtype=np.uint8)
