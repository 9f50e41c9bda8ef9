"""The two ways on which blocks come from another node: a connection for bytes alone, and the gRPC stream.

Both give sealed blocks in order, None where there are no more; CorruptBlock for what is not the block asked for or does
not hold, after which the source is of no use any more. OSError and errors of `cachestore.errors` say that it broke.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from cachestore.block import Buffer
from cachestore.cluster.peer_block import ArrivingBlock
from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.seal import CorruptBlock
from cachestore.service.bulk.format import BLOCK, END, GONE, LAST, SENT
from cachestore.service.bulk.line import Line
from cachestore.service.bulk.lines import Lines
from cachestore.service.bulk.source import LAST_SECONDS, MOST_HEADER
from cachestore.service.connection import Connection
from cachestore.service.stream.frames import BlockFrame
from cachestore.wire import store_pb2 as wire


class Wanted(NamedTuple):
    """Which blocks are read, and how large one may be."""

    namespace: bytes
    chain: Chain
    largest: int

    def arriving(self, number: int, packed: bytes) -> ArrivingBlock:
        """Memory for one of them, as its header says; CorruptBlock if that is another one's."""
        return ArrivingBlock.of(packed, self.namespace, self.chain.keys[number], self.chain.fingerprint, self.largest)


class Source(Protocol):
    """Where the blocks of one read come from."""

    def block(self, number: int, until: Deadline) -> Buffer | None:
        """The next block."""

    def close(self, lease: bytes, *, whole: bool) -> None:
        """Ends it; `whole` says that all blocks have come that were to come."""


@dataclass(eq=False)
class LineSource:
    """Blocks that come on a connection of `lines`, to which it goes back."""

    wanted: Wanted
    lines: Lines
    address: str
    line: Line
    _ended: bool = False

    def block(self, number: int, until: Deadline) -> Buffer | None:
        line = self.line
        if not line.readable(until.remaining()):
            raise TimeoutError("no block came")
        came, status, tier_bytes, _, size = BLOCK.unpack(line.take(BLOCK.size, until))
        if status == LAST:
            self._ended = True
            return None
        if came != number or status != SENT or size > MOST_HEADER:
            raise CorruptBlock("foreign")
        arriving = self.wanted.arriving(number, line.take(tier_bytes + size, until)[tier_bytes:])
        arriving.fill(lambda memory: line.fill(memory, until))
        came, status = END.unpack(line.take(END.size, until))
        if came != number or status not in (SENT, GONE):
            raise CorruptBlock("foreign")
        return arriving.whole() if status == SENT else None

    def close(self, lease: bytes, *, whole: bool) -> None:
        if self._ended or (whole and self._over()):
            self.lines.rest(lease, self.address, self.line)
        else:
            self.line.close()

    def _over(self) -> bool:
        """Whether the node has said everything it had to say."""
        try:
            return bool(BLOCK.unpack(self.line.take(BLOCK.size, Deadline.after(LAST_SECONDS)))[1] == LAST)
        except OSError:
            return False


@dataclass(eq=False)
class StreamSource:
    """Blocks that come as answers to a `call`, which has a deadline of its own."""

    wanted: Wanted
    connection: Connection
    call: Any

    def block(self, number: int, until: Deadline) -> Buffer | None:
        with self.connection.errors("Read"):
            message = next(self.call, None)
            if not isinstance(message, wire.ReadResponse) or not message.HasField("start"):
                return None
            arriving = self.wanted.arriving(number, message.start.header)
            while isinstance(message := next(self.call, None), BlockFrame):
                arriving.put(message.head.offset, message.data)
        if not isinstance(message, wire.ReadResponse) or message.end.status != wire.SENT:
            return None
        return arriving.whole() if message.HasField("end") else None

    def close(self, lease: bytes, *, whole: bool) -> None:
        self.call.cancel()
