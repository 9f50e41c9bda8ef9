"""Reaches the servers of a directory, and looks at each before anything is noted there."""

import time
from dataclasses import dataclass
from typing import ClassVar

from cachestore.errors import ConfigError, Unavailable
from cachestore.tiers.redis_condition import denied
from cachestore.tiers.redis_durable import Acknowledgement
from cachestore.tiers.redis_map import Map
from cachestore.tiers.redis_open import opened
from cachestore.tiers.redis_server import RedisServer
from cachestore.tiers.redis_url import Place
from cachestore.tiers.resp import Command
from cachestore.tiers.resp_errors import Broken

CHECK_SECONDS = 5.0
"""After so long a server's policy and role are looked at again."""

_PROBE = "cachestore:probe"
NEEDED: tuple[Command, ...] = (
    ("APPEND", _PROBE, ""), ("MGET", _PROBE), ("PERSIST", _PROBE), ("TIME",), ("HSET", f"{_PROBE}:hash", "a", "b"),
    ("HGETALL", f"{_PROBE}:hash"), ("HDEL", f"{_PROBE}:hash", "a"), ("WATCH", _PROBE), ("MULTI",), ("EXEC",),
    ("UNLINK", _PROBE),
)  # fmt: skip


@dataclass(frozen=True)
class Server(RedisServer):
    """A Redis of the directory's own."""

    table: ClassVar[str] = "directory.server"


@dataclass(frozen=True)
class Reach:
    """What is said of a Redis as for a tier, and how long to wait for it."""

    server: RedisServer
    connect_timeout: float
    timeout: float

    def map(self, place: Place) -> Map:
        """Its servers; ConfigError or Unavailable, which say what to do, if they cannot be used."""
        waits = self.connect_timeout, self.timeout
        dialer, guide = self.server.dialers(place, *waits)
        found = opened(place, dialer, guide, Acknowledgement("no", 0, 1.0), CHECK_SECONDS)
        try:
            for node in found.nodes():
                connection = dialer.dial(node.address, time.monotonic() + sum(waits))
                try:
                    connection.begin(time.monotonic() + self.timeout)
                    missing = denied(connection, NEEDED)
                finally:
                    connection.close()
                if missing:
                    raise ConfigError(
                        f"{place.table}.url: {place} does not let this user give {', '.join(missing)} "
                        "on keys cachestore:*; allow it with ACL SETUSER"
                    )
        except Broken as broken:
            raise Unavailable(
                f"{place.table}.url: {place} cannot be used ({broken.reason}); is that server well?"
            ) from broken
        return found
