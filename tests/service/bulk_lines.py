"""The bulk path from the outside: a client that says what it likes."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc

from cachestore.block import BlockSpec, Slot
from cachestore.deadline import Deadline
from cachestore.metrics import total
from cachestore.service.bulk.format import ANSWER, GO, REQUEST, TICKET
from cachestore.service.bulk.line import PlainLine
from cachestore.service.convert_put import Reservation, reserve_message
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.service.stream import frames
from cachestore.store.base import Durability
from cachestore.testing import plans_of
from cachestore.wire import store_pb2 as wire

BULK = ("bulk",)


Serve = Callable[..., CacheStoreServer]


LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""


def figure(server: CacheStoreServer, name: str, **labels: str) -> int:
    return total(list(server.bulk.counters.figures()), name, **labels)


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


class Raw:
    """A client that says what it likes."""

    def __init__(self, server: CacheStoreServer) -> None:
        self.server = server
        self.lines: list[PlainLine] = []

    def connect(self) -> PlainLine:
        connection = socket.create_connection(("127.0.0.1", self.server.bulk.port))
        self.lines.append(PlainLine(connection, 5.0))
        return self.lines[-1]

    def ticket(self, chain: Any, lease_ms: int = 1000, **metadata: str) -> bytes:
        """The ticket of a read."""
        request = wire.ReadRequest(
            chain=wire.Chain(fingerprint=chain.fingerprint, keys=b"".join(chain.keys)), bulk=True, lease_ms=lease_ms
        )
        with grpc.insecure_channel(self.server.address) as channel:
            call = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, wire.ReadResponse.FromString)
            (response,) = call(request, timeout=5, metadata=tuple(metadata.items()))
        ticket: bytes = response.granted.bulk.ticket
        return ticket

    def begin(self, ticket: bytes, line: PlainLine | None = None) -> PlainLine:
        line = line or self.connect()
        line.send(REQUEST.pack(TICKET, 0, ticket), Deadline.after(5))
        return line

    def ended(self, line: PlainLine) -> bool:
        """Whether the store has closed it, without another word."""
        assert line.readable(10)
        with suppress(ConnectionResetError):
            line.take(1, Deadline.after(5))
            return False
        return True


def reserved(server: CacheStoreServer, raw: Raw, blocks: Any, keys: Any) -> tuple[PlainLine, Any]:
    """A line on which a put is ready, and the end of its stream."""
    over = threading.Event()
    reserve = reserve_message(Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None))
    reserve.bulk = True

    def requests() -> Iterator[bytes]:
        yield wire.WriteRequest(reserve=reserve).SerializeToString()
        over.wait(20)

    channel = grpc.insecure_channel(server.address)
    call = channel.stream_stream(f"/{SERVICE}/Write")(requests(), timeout=30)
    response = wire.WriteResponse.FromString(next(call))
    line = raw.begin(response.bulk.ticket)
    assert line.take(ANSWER.size, Deadline.after(5)) == ANSWER.pack(GO, 0)

    def end() -> None:
        over.set()
        call.cancel()
        channel.close()

    return line, end
