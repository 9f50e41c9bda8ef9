"""Whether a Ray is there and takes our token, asked before Ray tries: it tries for minutes, and does not say why."""

import os
import socket
from contextlib import suppress
from pathlib import Path

import grpc

from cachestore.errors import ConfigError, Unavailable

PROBE = "/ray.rpc.NodeInfoGcsService/GetClusterId"
TIMEOUT = 5.0
REFUSED = "Ray refuses our token; put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token"


def check(address: str) -> None:
    """Unavailable or ConfigError for a `host:port` where no Ray of ours can be reached; says nothing of other forms.

    "auto" is where Ray would look.
    """
    shown = f"cluster.address = {address!r}"
    if address == "auto":
        address = _found()
        shown += f" ({address})"
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise Unavailable(f"cannot reach Ray at {shown}: {error}") from error
    if _refused(address):
        raise ConfigError(f"{shown}: {REFUSED}")


def _found() -> str:
    """What "auto" stands for; "auto" still where Ray finds nothing, and says so."""
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    from ray._private import services

    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return "auto"


def _refused(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        probe = channel.unary_unary(PROBE, request_serializer=bytes, response_deserializer=bytes)
        try:
            probe(b"", timeout=TIMEOUT, metadata=(("authorization", f"Bearer {_token()}"),))
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def _token() -> str:
    """The token that Ray would send, looked up as Ray does it."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return ""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    place = os.environ.get("RAY_AUTH_TOKEN_PATH")
    with suppress(OSError):
        return Path(place or Path.home() / ".ray" / "auth_token").read_text().strip()
    return ""
