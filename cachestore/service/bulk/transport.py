"""The transport between nodes: agreed on over gRPC, or with who is known there, on connections of its own."""

from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.service.bulk.format import ANSWER, GO
from cachestore.service.bulk.lines import Lines, Reserved
from cachestore.service.bulk.sink import BulkSink
from cachestore.service.bulk.source import BulkSource
from cachestore.service.connection import Connection
from cachestore.service.convert_put import Reservation
from cachestore.service.stream.sink import StreamSink
from cachestore.service.stream.source import StreamSource, begin
from cachestore.service.transport import Asked, Sink, Source
from cachestore.wire import store_pb2 as wire


class Bulk:
    """The bulk port of the store behind `connection`; follows `cachestore.service.transport.Transport`.

    A read or put for which the store offers nothing goes on as a stream.
    """

    name = "bulk"

    def __init__(self, connection: Connection, frame_bytes: int) -> None:
        self._connection = connection
        self._frame_bytes = frame_bytes
        self._lines = Lines(connection)

    def read(self, asked: Asked, deadline: Deadline) -> Source | None:
        if not self._lines.open:
            return None
        request = wire.ReadRequest()
        request.CopyFrom(asked.request)
        request.bulk = True
        call, granted = begin(self._connection, request, deadline)
        if not granted.HasField("bulk"):
            stream = StreamSource(self._connection, asked, deadline)
            stream.go_on(call, granted)
            return stream
        source = BulkSource(self._connection, self._lines, asked, deadline)
        source.open(call, granted)
        return source

    def put(self, reservation: Reservation, codec: Codec, deadline: Deadline) -> Sink | None:
        if not self._lines.open:
            return None
        reserved = self._lines.reserve(reservation, deadline)
        if reserved is not None:
            return BulkSink(self._lines, reserved, codec, reservation, deadline)
        stream = StreamSink(self._connection, codec, reservation, self._frame_bytes, deadline)
        offer = stream.open(bulk=True)
        # whatever keeps the connection from coming about, the stream is there
        begun = self._begun(offer, stream, deadline) if offer is not None else None
        return stream if begun is None else BulkSink(self._lines, begun, codec, reservation, deadline, stream)

    def release(self, request: wire.ReleaseRequest, timeout: float) -> None:
        deadline = Deadline.after(timeout)
        if not self._lines.release(request, deadline):
            self._connection.call("Release", request, max(deadline.remaining(), 1e-3))

    def close(self) -> None:
        self._lines.close()

    def _begun(self, offer: wire.BulkOffer, stream: StreamSink, deadline: Deadline) -> Reserved | None:
        """Shows the ticket, and waits until the store is ready; None if it is not, by which nothing is lost."""
        try:
            address, line = self._lines.begin(offer, deadline)
        except OSError:
            return None
        try:
            ready = line.take(ANSWER.size, deadline) == ANSWER.pack(GO, 0)
        except OSError:
            ready = False
        if ready:
            return Reserved(address, line, stream.answers)
        line.close()
        return None
