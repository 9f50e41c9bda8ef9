"""The `[service]` section: where the store listens, and the bounds it works under."""

from dataclasses import dataclass
from ipaddress import ip_address

from cachestore.config import Bytes, Seconds
from cachestore.errors import ConfigError

MAX_MESSAGE = 4 << 20
"""Bytes of the largest message either side takes; a protocol constant, so that both sides agree on it."""


@dataclass(frozen=True)
class ServiceSettings:
    """Where the store listens, and the bounds it works under.

    `port = 0` picks a free port. With `unix_socket` the store listens there instead; its directory must be private.
    `longest_call` ends calls that bring no deadline of their own, or a longer one.
    """

    host: str = "127.0.0.1"
    port: int = 7420
    unix_socket: str = ""
    max_concurrent: int = 64
    frame_bytes: Bytes = 1 << 20
    in_flight_bytes: Bytes = 512 << 20
    longest_call: Seconds = 300.0

    def __post_init__(self) -> None:
        _check_loopback(self.host)
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"service.port must lie in 0 .. 65535, got {self.port}")
        if len(self.unix_socket.encode()) > 100:
            raise ConfigError(
                "service.unix_socket is longer than the 100 bytes a socket address takes; use a shorter path"
            )
        if self.max_concurrent < 1:
            raise ConfigError(f"service.max_concurrent must be at least 1, got {self.max_concurrent}")
        if not 4096 <= self.frame_bytes <= MAX_MESSAGE // 2:
            raise ConfigError(f"service.frame_bytes must lie in 4KiB .. {MAX_MESSAGE >> 21}MiB, got {self.frame_bytes}")
        if self.in_flight_bytes < 2 * MAX_MESSAGE:
            raise ConfigError(f"service.in_flight_bytes must be at least 8MiB, got {self.in_flight_bytes}")
        if not self.longest_call > 0:
            raise ConfigError(f"service.longest_call must be more than 0 seconds, got {self.longest_call}")

    @property
    def target(self) -> str:
        """The address in the form that gRPC listens on."""
        if self.unix_socket:
            return f"unix:{self.unix_socket}"
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def _check_loopback(host: str) -> None:
    if host == "localhost":
        return
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"service.host = {host!r} is not loopback, and authentication does not exist yet: anyone who reaches "
            "the port could read and write every cache; use 127.0.0.1, ::1, localhost or service.unix_socket"
        )
