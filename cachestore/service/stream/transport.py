"""The transport that is always there: frames on the gRPC streams that the control messages use too."""

from collections.abc import Sequence

from cachestore.block import Buffer
from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.service.connection import Connection
from cachestore.service.convert_put import Reservation
from cachestore.service.stream.following import StreamFollowing
from cachestore.service.stream.sink import StreamSink
from cachestore.service.stream.source import StreamSource
from cachestore.service.transport import Asked
from cachestore.wire import store_pb2 as wire


class Stream:
    """The gRPC stream to the store behind `connection`; follows `cachestore.service.transport.Transport`."""

    name = "stream"

    def __init__(self, connection: Connection, frame_bytes: int) -> None:
        self._connection = connection
        self._frame_bytes = frame_bytes

    def read(self, asked: Asked, deadline: Deadline) -> StreamSource:
        source = StreamSource(self._connection, asked, deadline)
        source.open(asked.request)
        return source

    def follow(self, asked: Asked, into: Sequence[Buffer] | None, wait: float, deadline: Deadline) -> StreamFollowing:
        return StreamFollowing(self._connection, asked, into, wait, deadline)

    def put(self, reservation: Reservation, codec: Codec, deadline: Deadline) -> StreamSink:
        sink = StreamSink(self._connection, codec, reservation, self._frame_bytes, deadline)
        sink.open()
        return sink

    def release(self, request: wire.ReleaseRequest, timeout: float) -> None:
        self._connection.call("Release", request, timeout)

    def close(self) -> None:
        """Nothing: the connection is its owner's."""
