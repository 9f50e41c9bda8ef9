"""Whether a Ray takes our token, asked before Ray itself tries: it would try for 20 seconds and not say why."""

import os
from contextlib import suppress
from pathlib import Path

import grpc

PROBE = "/ray.rpc.NodeInfoGcsService/GetClusterId"
TIMEOUT = 5.0


def refused(address: str) -> bool:
    """Whether the Ray at `address` answers, and answers that our token is missing or wrong."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(PROBE)(b"", timeout=TIMEOUT, metadata=[("authorization", f"Bearer {_token()}")])
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


def _token() -> str:
    """The token that Ray would send, looked up as Ray does it."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    place = os.environ.get("RAY_AUTH_TOKEN_PATH")
    with suppress(OSError):
        return Path(place or Path.home() / ".ray" / "auth_token").read_text().strip()
    return ""
