"""The server's side of a read over the bulk path: slots are sent as they lie in memory."""

from contextlib import closing
from dataclasses import dataclass

from cachestore.block import Part
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.seal import CorruptBlock
from cachestore.service import carried
from cachestore.service.auth.identity import Identity
from cachestore.service.auth.shares import Shares
from cachestore.service.bulk.format import ANSWER, BLOCK, END, GO, GONE, LAST, SENT
from cachestore.service.bulk.line import Line
from cachestore.service.convert import MOST_KEYS, verdicts
from cachestore.service.ranges import ranges
from cachestore.store.local import LocalStore
from cachestore.store.reading import SealedBlock, SealedReading

IN_FLIGHT = 4 << 20
"""Bytes that a connection has on their way at most: what the system lets a send buffer grow to."""


@dataclass(eq=False)
class Sending:
    """A read that was granted to `caller`, from block `first` on. Its call is over: this counts in the same `share`."""

    caller: Identity
    share: Shares
    store: LocalStore
    reading: SealedReading
    part: Part
    first: int
    holds: int = IN_FLIGHT

    def run(self, line: Line) -> None:
        """Sends the blocks; ends early, as every read does, at the first that cannot be had."""
        deadline, number = self.reading.deadline, self.first
        with self.share.hold(self.caller), closing(self.reading):
            for block in self.reading:
                if block.number < self.first:
                    continue
                number = block.number
                if not self._sent(line, block):
                    return
        line.send(BLOCK.pack(number, LAST, 0, 0, 0), deadline)

    def release(self, line: Line, count: int, deadline: Deadline) -> None:
        """Ends the lease with so many verdicts, which come now."""
        if count > MOST_KEYS:
            raise InvalidArgument(f"a lease has at most {MOST_KEYS} blocks, got {count} verdicts")
        told = verdicts(line.take(count, deadline))
        self.store.release(self.reading.lease, told, timeout=deadline.remaining())
        line.send(ANSWER.pack(GO, 0), deadline)

    def _sent(self, line: Line, block: SealedBlock) -> bool:
        deadline, tier = self.reading.deadline, block.tier.encode()
        head = BLOCK.pack(block.number, SENT, len(tier), 0, len(block.packed))
        line.send(b"".join((head, tier, block.packed)), deadline, more=True)
        for start, end in ranges(block.header, self.part):
            line.send(block.payload[start:end], deadline, more=True)
        try:
            block.check()
        except CorruptBlock:
            # its memory was taken for another block meanwhile: to the reader it is gone
            line.send(END.pack(block.number, GONE), deadline)
            return False
        carried.read(self.store, "bulk", [carried.sealed_bytes(block.header, self.part)])
        line.send(END.pack(block.number, SENT), deadline)
        return True
