"""Why no connection comes about: gRPC says UNAVAILABLE for a store that is down and for TLS that cannot work alike.

A handshake of our own, after gRPC's failed, tells them apart. It sends nothing but the handshake.
"""

import socket
import ssl
import time
from dataclasses import dataclass, field

import grpc

from cachestore.errors import ConfigError, Untrusted
from cachestore.service.auth.credentials import Credentials, host_of
from cachestore.service.auth.tls import client_context

SECONDS = 0.2
"""How long a look may take: calls end soon after their deadline, whatever the store does."""

AGAIN_SECONDS = 1.0
"""How long what was seen holds."""

_UNCONNECTED = "failed to connect"
"""Begins gRPC's text where no connection came about; for names that do not resolve and calls cut off it is another."""

_SPEAKS = "it speaks TLS: name the authority that vouches for it (CACHESTORE_CA)"
_NO_TLS = "it speaks no TLS: leave the authority (CACHESTORE_CA) away if that is meant, or give the store tls_cert"
_ASKS = "it asks for a client's certificate: give cert and key (CACHESTORE_CERT, CACHESTORE_KEY)"
_REFUSES = "it does not accept this client's certificate: have it signed by the authority in its service.client_ca"


@dataclass(eq=False)
class Preflight:
    """Looks at the store at `address` as a client with these credentials does."""

    address: str
    credentials: Credentials
    _seen: tuple[float, str] = field(default=(0.0, ""))

    def explain(self, error: grpc.RpcError) -> None:
        """Untrusted, with the reason, if `error` comes from TLS that cannot work; nothing otherwise."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or not (error.details() or "").startswith(_UNCONNECTED):
            return
        until, reason = self._seen
        if time.monotonic() > until:
            reason = self.look()
            self._seen = time.monotonic() + AGAIN_SECONDS, reason
        if reason:
            raise Untrusted(f"no connection to {self.address} that both sides trust: {reason}") from error

    def look(self) -> str:
        """Why a handshake with the store fails; empty if it does not, or if nobody is there."""
        host, _, port = self.address.rpartition(":")
        if self.address.startswith("unix:") or not port.isdigit():
            return ""
        until = time.monotonic() + SECONDS
        try:
            with socket.create_connection((host.strip("[]"), int(port)), SECONDS) as plain:
                # a handshake ends within this, however many steps it takes
                plain.settimeout(max(until - time.monotonic(), 1e-3))
                # OSError where the peer is gone already: ssl would lose such a socket unclosed
                plain.getpeername()
                return self._with_tls(plain, until) if self.credentials.tls else _without(plain)
        except (OSError, ConfigError):
            # also where it breaks off in the middle: that may be an outage like any other
            return ""

    def _with_tls(self, plain: socket.socket, until: float) -> str:
        context = client_context(self.credentials)
        context.set_alpn_protocols(["h2"])
        unwelcome = _REFUSES if self.credentials.cert else _ASKS
        try:
            tls = context.wrap_socket(plain, server_hostname=self.credentials.server_name or host_of(self.address))
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not vouched for by {self.credentials.ca}: {error.verify_message}"
        except ssl.SSLEOFError:
            return ""
        except ssl.SSLError as error:
            return unwelcome if "ALERT" in (error.reason or "") else _NO_TLS
        with tls:
            tls.settimeout(max(until - time.monotonic(), 1e-3))
            try:
                # a server that wants another certificate says so only when our side of the handshake is over, or hangs
                # up; one that is content speaks first
                return "" if tls.recv(1) else unwelcome
            except (ssl.SSLError, ConnectionResetError):
                return unwelcome


def _without(plain: socket.socket) -> str:
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # only whether TLS is spoken is asked here, and nothing is sent
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    try:
        anything.wrap_socket(plain).close()
    except ssl.SSLError as error:
        return _SPEAKS if "ALERT" in (error.reason or "") else ""
    return _SPEAKS
