"""Why no connection comes about: gRPC says UNAVAILABLE for a store that is down and for TLS that cannot work alike.

A handshake of our own, after gRPC's failed, tells them apart. It sends nothing but the handshake.
"""

import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from cachestore.errors import ConfigError, Untrusted
from cachestore.service.auth.credentials import Credentials, host_of
from cachestore.service.auth.tls import client_context
from cachestore.service.resolving import Resolver

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
    _resolver: Resolver = field(default_factory=Resolver, repr=False)

    def explain(self, error: grpc.RpcError) -> None:
        """Untrusted, with the reason, if `error` comes from TLS that cannot work; nothing otherwise."""
        if not unconnected(error):
            return
        until, reason = self._seen
        if time.monotonic() > until:
            reason = self.look()
            self._seen = time.monotonic() + AGAIN_SECONDS, reason
        if reason:
            raise Untrusted(f"no connection to {self.address} that both sides trust: {reason}") from error

    def look(self) -> str:
        """Why a handshake with the store fails; empty if it does not, if nobody is there, or if that takes too long."""
        port = self.address.rpartition(":")[2]
        if self.address.startswith("unix:") or not port.isdigit():
            return ""
        until = time.monotonic() + SECONDS
        with suppress(OSError, ConfigError):
            for place in self._resolver.resolve(host_of(self.address), int(port), SECONDS):
                # it may not be there, or break off in the middle: an outage like any other
                with suppress(OSError):
                    return self._look_at(place, until)
        return ""

    def _look_at(self, place: Any, until: float) -> str:
        ours = self.credentials.tls
        context = client_context(self.credentials) if ours else _any_server()
        context.set_alpn_protocols(["h2"])
        name = self.credentials.server_name or host_of(self.address)
        *kind, _, address = place
        # wrapped before it is connected: ssl loses a connected one unclosed if its peer hangs up just then
        with context.wrap_socket(socket.socket(*kind), server_hostname=name, do_handshake_on_connect=False) as tls:
            tls.settimeout(max(until - time.monotonic(), 1e-3))
            tls.connect(address)
            # a handshake ends within this, however many steps it takes
            tls.settimeout(max(until - time.monotonic(), 1e-3))
            return self._trusted(tls, until) if ours else _spoken(tls)

    def _trusted(self, tls: ssl.SSLSocket, until: float) -> str:
        unwelcome = _REFUSES if self.credentials.cert else _ASKS
        try:
            tls.do_handshake()
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not vouched for by {self.credentials.ca}: {error.verify_message}"
        except ssl.SSLEOFError:
            return ""
        except ssl.SSLError as error:
            return unwelcome if "ALERT" in (error.reason or "") else _NO_TLS
        tls.settimeout(max(until - time.monotonic(), 1e-3))
        try:
            # a server that wants another certificate says so only when our side of the handshake is over, or hangs
            # up; one that is content speaks first
            return "" if tls.recv(1) else unwelcome
        except (ssl.SSLError, ConnectionResetError):
            return unwelcome


def unconnected(error: grpc.RpcError) -> bool:
    """Whether no connection came about, for whatever reason."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(_UNCONNECTED)


def _any_server() -> ssl.SSLContext:
    # only whether TLS is spoken is asked with it, and nothing is sent
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _spoken(tls: ssl.SSLSocket) -> str:
    try:
        tls.do_handshake()
    except ssl.SSLError as error:
        return _SPEAKS if "ALERT" in (error.reason or "") else ""
    return _SPEAKS
