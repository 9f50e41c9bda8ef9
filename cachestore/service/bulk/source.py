"""The client's side of a read over the bulk path: blocks go from the connection to where their reader wants them."""

from typing import Any

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.seal import ENCRYPTED, MAX_PLANES, CorruptBlock, Header, header_bytes
from cachestore.service.bulk.format import BLOCK, END, GONE, LAST, SENT
from cachestore.service.bulk.line import Line
from cachestore.service.bulk.lines import Lines
from cachestore.service.connection import Connection
from cachestore.service.landing import Landing
from cachestore.service.stream.source import begin, resumed
from cachestore.service.transport import Asked, Broken
from cachestore.store.base import Loaded
from cachestore.wire import store_pb2 as wire

MOST_HEADER = header_bytes(MAX_PLANES)

RESUMES = 2
"""How often a read whose connection breaks asks for another."""

PATIENCE = 10.0
"""Seconds that a store may take to bring the next block, from wherever it has it."""

LAST_SECONDS = 0.1
"""What the end of a read may take to come, when all its blocks have: its Release may be late as well."""


class BulkSource:
    """One read; what breaks is asked for again under the same lease. Its line, once it is over, is with `lines`."""

    def __init__(self, connection: Connection, lines: Lines, asked: Asked, deadline: Deadline) -> None:
        self._connection = connection
        self._lines = lines
        self._asked = asked
        self._deadline = deadline
        self._call: Any = None
        self._lease = b""
        self._address = ""
        self._line: Line | None = None
        self._next = 0
        self._leased = 0
        self._ended = False
        self._resumes_left = RESUMES

    @property
    def lease(self) -> bytes:
        return self._lease

    def open(self, call: Any, granted: wire.Granted) -> None:
        """Begins with what a store granted that offers this way."""
        self._call, self._lease = call, granted.lease
        self._leased = min(len(self._asked.chain), sum(run.blocks for run in granted.runs))
        try:
            self._address, self._line = self._lines.begin(granted.bulk, self._deadline)
        except OSError:
            # the first block says so: by then another transport may go on
            self._resumes_left = 0

    def load(self, number: int, into: Buffer | None) -> Loaded | None:
        while self._deadline.remaining():
            if self._line is None:
                self._resume(number)
                continue
            try:
                return self._block(self._line, number, into)
            except OSError:
                self._drop()
        return None

    def close(self) -> None:
        line, self._line = self._line, None
        if line is not None and self._over(line):
            self._lines.rest(self._lease, self._address, line)
        elif line is not None:
            line.close()
        if self._call is not None:
            self._call.cancel()

    def _over(self, line: Line) -> bool:
        """Whether the store has said everything it had to say."""
        if not self._ended and self._next == self._leased:
            try:
                self._ended = BLOCK.unpack(line.take(BLOCK.size, Deadline.after(LAST_SECONDS)))[1] == LAST
            except OSError:
                return False
        return self._ended

    def _drop(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _resume(self, number: int) -> None:
        """Asks for the blocks from `number` on again; Broken if that does not work."""
        if not self._resumes_left:
            raise Broken
        self._resumes_left -= 1
        request = resumed(self._asked, self._lease, number)
        request.bulk = True
        self._call.cancel()
        try:
            self._call, granted = begin(self._connection, request, self._deadline)
            if not granted.HasField("bulk"):
                raise Broken
            self._address, self._line = self._lines.begin(granted.bulk, self._deadline)
        except (OSError, CacheStoreError) as error:
            raise Broken from error

    def _block(self, line: Line, number: int, into: Buffer | None) -> Loaded | None:
        if not line.readable(min(PATIENCE, self._deadline.remaining())):
            raise TimeoutError("no block came")
        came, status, tier_bytes, _, size = BLOCK.unpack(line.take(BLOCK.size, self._deadline))
        if status == LAST:
            self._ended = True
            return None
        if came != number or status != SENT or size > MOST_HEADER:
            raise CorruptBlock("foreign")
        named = line.take(tier_bytes + size, self._deadline)
        header = Header.parse(named[tier_bytes:])
        header.check_identity(header.namespace, self._asked.chain.keys[number], self._asked.chain.fingerprint)
        if header.flags & ENCRYPTED:
            raise CorruptBlock("codec")
        landing = Landing(header, self._asked.part, into)
        landing.fill(lambda memory: line.fill(memory, self._deadline))
        corrupt, loaded = None, None
        try:
            # while the store sends the end, and the next block
            loaded = Loaded(landing.block(), named[:tier_bytes].decode("utf-8", "replace"))
        except CorruptBlock as error:
            corrupt = error
        came, status = END.unpack(line.take(END.size, self._deadline))
        if came != number or status not in (SENT, GONE):
            raise CorruptBlock("foreign")
        if status == GONE:
            self._ended = True
            return None
        self._next = number + 1
        if corrupt is not None:
            raise corrupt
        return loaded
