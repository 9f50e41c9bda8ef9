"""How does the payload of a read or a put travel?

    shared  same node: through the store's memory
    bulk    other node: over a connection for bytes alone
    stream  any node: on the gRPC stream

To add one: a class that follows `transport.Transport` and takes what `start` gives it, and a line here.
"""

from typing import cast

from cachestore.registry import Catalogue
from cachestore.service.connection import Connection
from cachestore.service.transport import Transport

TRANSPORTS = Catalogue(
    "transports",
    {
        "shared": "cachestore.service.shared.transport:Shared",
        "bulk": "cachestore.service.bulk.transport:Bulk",
        "stream": "cachestore.service.stream.transport:Stream",
    },
)

ALL = tuple(TRANSPORTS.places)
"""All of ours, the fastest first."""


def start(name: str, connection: Connection, frame_bytes: int) -> Transport:
    """The transport of this name to the store behind `connection`; ConfigError if there is none."""
    return cast(Transport, TRANSPORTS.load(name)(connection, frame_bytes))
