"""Sealed blocks of another node, each when it is asked for: those behind it are on their way meanwhile."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from cachestore.block import WHOLE, Buffer
from cachestore.cluster.peer_sources import LineSource, Source, StreamSource, Wanted
from cachestore.cluster.peer_ways import Way
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, DeadlineExceeded, Unavailable
from cachestore.seal import CorruptBlock
from cachestore.service import convert
from cachestore.service.stream.source import begin, resumed
from cachestore.service.transport import Asked
from cachestore.service.words import VERDICT
from cachestore.store.base import Verdict
from cachestore.tiers.base import Found
from cachestore.wire import store_pb2 as wire

RELEASE_SECONDS = 0.5
"""How long the end of a lease may take, if the deadline is that far away: without it the lease runs out by itself."""

GRACE_SECONDS = 0.1
"""What it gets when the deadline has passed, or the node has failed."""


@dataclass(eq=False)
class PeerReading:
    """One read over `way`: the leading blocks of a chain that the node has, under one lease.

    For each block the node may take `timeout` seconds. Iterating gives sealed blocks whose bytes are verified, the last
    perhaps a CorruptBlock, and raises from `cachestore.errors` if the node breaks off.
    """

    way: Way
    wanted: Wanted
    deadline: Deadline
    timeout: float
    there: int = 0
    """How many of the blocks the node said to have."""
    _lease: bytes = b""
    _source: Source | None = None
    _told: list[Verdict] = field(default_factory=list)
    _failed: bool = False

    def open(self) -> None:
        """Asks for the blocks and waits for the lease on them; raises if the node cannot be asked."""
        lines = self.way.lines
        request = wire.ReadRequest(
            chain=convert.chain_message(self.wanted.chain), part=convert.part_message(WHOLE), bulk=lines.open
        )
        soon = self._soon()
        call, granted = begin(self.way.connection, request, soon)
        self._lease = granted.lease
        self.there = min(len(self.wanted.chain), sum(run.blocks for run in granted.runs))
        self._source = StreamSource(self.wanted, self.way.connection, call)
        if granted.HasField("bulk"):
            call.cancel()
            try:
                self._source = LineSource(self.wanted, lines, *lines.begin(granted.bulk, soon))
            except OSError:
                self._stream(0)

    def __iter__(self) -> Iterator[Found]:
        for number in range(self.there):
            try:
                block = self._block(number)
            except CorruptBlock as corrupt:
                self._told.append(Verdict.CORRUPT)
                yield corrupt
                return
            except CacheStoreError:
                self._failed = True
                raise
            if block is None:
                return
            self._told.append(Verdict.USED)
            yield block

    def close(self) -> None:
        """Ends the read and its lease, and says what became of each block."""
        source, self._source = self._source, None
        if not self._lease:
            return
        if source is not None:
            clean = not self._failed and self._told.count(Verdict.USED) == self.there
            source.close(self._lease, whole=clean)
        left = GRACE_SECONDS if self._failed else min(RELEASE_SECONDS, self.deadline.remaining())
        deadline = Deadline.after(max(GRACE_SECONDS, left))
        request = wire.ReleaseRequest(lease=self._lease, verdicts=[VERDICT.number(each) for each in self._told])
        if not self.way.lines.release(request, deadline):
            with suppress(CacheStoreError):
                self.way.connection.call("Release", request, max(deadline.remaining(), 1e-3))

    def _block(self, number: int) -> Buffer | None:
        """The next block, over the stream where the connection has broken. One of its tries may break off, not two."""
        assert self._source is not None
        try:
            return self._source.block(number, self._soon())
        except TimeoutError as error:
            raise DeadlineExceeded("the node sent no block in time") from error
        except OSError:
            pass
        except DeadlineExceeded:
            # a stream has one deadline for all its blocks: whoever brought some of them has not failed
            if not self._told or not self.deadline.remaining():
                raise
        self._source.close(self._lease, whole=False)
        self._stream(number)
        try:
            return self._source.block(number, self._soon())
        except OSError as error:
            raise Unavailable("the connection broke again") from error

    def _stream(self, number: int) -> None:
        """Goes on over the stream from this block on, under the same lease."""
        asked = Asked(self.wanted.chain, WHOLE, wire.ReadRequest())
        try:
            call, _ = begin(self.way.connection, resumed(asked, self._lease, number), self._soon())
        except CacheStoreError:
            self._failed = True
            raise
        self._source = StreamSource(self.wanted, self.way.connection, call)

    def _soon(self) -> Deadline:
        return Deadline(min(self.deadline.at, time.monotonic() + self.timeout))
