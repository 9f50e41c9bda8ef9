"""What may stand where a store's address is asked for.

gRPC takes anything: a port that is too large it wraps around, and a text that is no address is an outage to it.
"""

import re
from ipaddress import IPv6Address

from cachestore.errors import ConfigError

_NETWORK = re.compile(
    r"(?:dns:(?:///)?)?"  # may stand in front: gRPC's own way of saying that it is a name
    r"(?:\[(?P<literal>[^\]\s]+)\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?):(?P<port>[0-9]{1,5})"
)
# 107 bytes are what a socket's address takes; behind two slashes a host would stand, and a socket has none
_SOCKET = re.compile(r"unix:(?://(?=/)|(?!//))\S(?:.*\S)?")
_SOCKET_BYTES = 107


def check_address(address: str) -> None:
    """ConfigError, with an example of each form, unless `address` is `host:port`, `[IPv6]:port` or `unix:/path`."""
    if not (_is_socket(address) if address.startswith("unix:") else _is_network(address)):
        raise ConfigError(
            f"{address!r} is no address: give host and port (1 to 65535) as in 127.0.0.1:7420, store.example:7420 or "
            f"[::1]:7420, or a socket of at most {_SOCKET_BYTES} bytes as in unix:/run/cachestore.sock"
        )


def _is_socket(address: str) -> bool:
    if not address.isprintable() or _SOCKET.fullmatch(address) is None:
        return False
    return len(address.encode()) <= len("unix:") + _SOCKET_BYTES


def _is_network(address: str) -> bool:
    found = _NETWORK.fullmatch(address)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        return False
    try:
        return found["literal"] is None or bool(IPv6Address(found["literal"]))
    except ValueError:
        return False
