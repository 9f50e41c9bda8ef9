"""The server's side of a put over the bulk path: planes go from the connection into the slots of their blocks."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cachestore.block import Buffer
from cachestore.errors import Aborted, InvalidArgument
from cachestore.seal import MAX_PLANES
from cachestore.service.auth.identity import Identity
from cachestore.service.bulk.answers import answer, refuse
from cachestore.service.bulk.format import (
    ANSWER,
    CODED,
    COMMIT,
    DONE,
    FRAME,
    GO,
    MOST_MESSAGE,
    RAW,
    ROW,
    SUM,
)
from cachestore.service.bulk.line import Line
from cachestore.service.health.stalls import Peer
from cachestore.service.stream.writing import committed
from cachestore.store.put import LocalPut
from cachestore.wire import store_pb2 as wire

LOOK_SECONDS = 0.5
"""How long a writer that computes is waited for before looking whether its put is over."""


@dataclass(eq=False)
class Receiving:
    """A put that `caller` has open over a stream whose end is `peer`: that is cut with whoever stands still here."""

    caller: Identity
    put: LocalPut
    stall: float
    peer: Peer
    holds: int = 0

    def run(self, line: Line) -> None:
        """Takes planes and commits until the writer is done; what it raises breaks the line."""
        with self.peer.elsewhere():
            line.send(ANSWER.pack(GO, 0), self.put.deadline)
            Planes(self.put, self.stall, self.peer.cut).run(line)


@dataclass(eq=False)
class Planes:
    """What comes of one put; `silent` is called when nothing does for `stall` seconds."""

    put: LocalPut
    stall: float
    silent: Callable[[], object] = lambda: None

    def run(self, line: Line) -> None:
        """Takes planes and commits until the writer is done; what it raises breaks the line."""
        deadline = self.put.deadline
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
                self.put.deadline.check("writing")
                raise Aborted("the put is over")
            if time.monotonic() >= latest:
                self.silent()
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
            response = committed(self.put, message, "bulk")
        except Exception as error:
            return refuse(line, error, self.put.deadline)
        answer(line, response, self.put.deadline)
