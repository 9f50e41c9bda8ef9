"""The server's side of a put over the bulk path: planes go from the connection into the slots of their blocks."""

import time
from dataclasses import dataclass

import numpy as np

from cachestore.block import Buffer
from cachestore.errors import Aborted, InvalidArgument
from cachestore.seal import MAX_PLANES
from cachestore.service import status
from cachestore.service.auth.identity import Identity
from cachestore.service.bulk.format import (
    ANSWER,
    CODED,
    COMMIT,
    DONE,
    FRAME,
    GO,
    MOST_MESSAGE,
    NO,
    RAW,
    ROW,
    SUM,
)
from cachestore.service.bulk.line import Line
from cachestore.service.health.stalls import Peer
from cachestore.service.stream.writing import committed
from cachestore.store.put import LocalPut
from cachestore.wire import session_pb2
from cachestore.wire import store_pb2 as wire

LOOK_SECONDS = 0.5
"""How long a writer that computes is waited for before looking whether its put is over."""


@dataclass(eq=False)
class Receiving:
    """A put that `caller` has open; when nothing comes for `stall` seconds its stream is cut, whose end is `peer`."""

    caller: Identity
    put: LocalPut
    stall: float
    peer: Peer
    holds: int = 0

    def run(self, line: Line) -> None:
        """Takes planes and commits until the writer is done; what it raises breaks the line."""
        with self.peer.elsewhere():
            self._take(line)

    def _take(self, line: Line) -> None:
        deadline = self.put.deadline
        line.send(ANSWER.pack(GO, 0), deadline)
        while True:
            self._await(line)
            word, number, first, planes = FRAME.unpack(line.take(FRAME.size, deadline))
            if word in (RAW, CODED):
                self._planes(line, number, first, planes, coded=word == CODED)
            elif word == COMMIT:
                self._commit(line, number)
            elif word == DONE:
                self.put.abort()
                return line.send(ANSWER.pack(GO, 0), deadline)
            else:
                raise InvalidArgument("a frame of a put must be RAW, CODED, COMMIT or DONE")

    def _await(self, line: Line) -> None:
        """Waits for the next frame."""
        latest = time.monotonic() + self.stall
        while not line.readable(min(LOOK_SECONDS, self.stall)):
            if self.put.over:
                raise Aborted("the put is over")
            if time.monotonic() >= latest:
                self.peer.cut()
                raise Aborted(f"the writer sent nothing for {self.stall:g} s")

    def _planes(self, line: Line, block: int, first: int, planes: int, *, coded: bool) -> None:
        if not 1 <= planes <= MAX_PLANES:
            raise InvalidArgument(f"a frame holds 1 to {MAX_PLANES} planes, got {planes}")
        deadline = self.put.deadline

        def take(memory: Buffer) -> None:
            line.fill(memory, deadline)

        rows = np.frombuffer(line.take(planes * ROW.itemsize, deadline), dtype=ROW) if coded else None
        with self.put.arriving(block, range(first, first + planes), rows) as arrival:
            arrival.fill(take)
            sums = np.frombuffer(line.take((1 + coded) * planes * SUM.itemsize, deadline), dtype=SUM)
            arrival.told(sums[:planes], sums[-planes:])

    def _commit(self, line: Line, size: int) -> None:
        if size > MOST_MESSAGE:
            raise InvalidArgument(f"a commit has at most {MOST_MESSAGE} bytes, got {size}")
        message = wire.Commit.FromString(line.take(size, self.put.deadline))
        try:
            word, answer = GO, committed(self.put, message, "bulk").SerializeToString()
        except Exception as error:
            failed = status.answer(error, "Write")
            reason = dict(failed.trailers)[status.REASON]
            word, answer = NO, session_pb2.Failure(reason=reason, text=failed.text).SerializeToString()
        line.send(ANSWER.pack(word, len(answer)) + answer, self.put.deadline)
