"""Opens connections to Redis, over TCP, a unix socket or TLS, signed in, the database chosen; in bounded time."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from cachestore.errors import ConfigError
from cachestore.tiers.redis_url import Address
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_errors import FAULTS, Broken, Refused


@dataclass
class Dialer:
    """Who signs in, and how. `tls` is None for plain connections: a server that speaks TLS is then not reached."""

    user: str
    password: str = field(repr=False)
    database: int
    tls: ssl.SSLContext | None
    connect_timeout: float
    timeout: float
    _known: dict[Address, list[Any]] = field(default_factory=dict, repr=False)

    def dial(self, address: Address, until: float) -> Connection:
        """A connection that is ready for commands; Broken says why there is none."""
        until = min(until, time.monotonic() + self.connect_timeout + self.timeout)
        with _broken():
            sock = self._connected(address, min(until, time.monotonic() + self.connect_timeout))
        try:
            with _broken():
                sock.settimeout(_left(until))
                if isinstance(sock, ssl.SSLSocket):
                    sock.do_handshake()
            connection = Connection(sock, self.timeout)
            connection.begin(until)
            self._sign_in(connection)
        except BaseException:
            sock.close()
            raise
        return connection

    def _sign_in(self, connection: Connection) -> None:
        try:
            if self.user or self.password:
                connection.call("AUTH", *filter(None, [self.user]), self.password)
        except Refused:
            raise Broken("auth") from None
        try:
            connection.call("PING")
            if self.database:
                connection.call("SELECT", self.database)
        except Refused as refused:
            raise Broken(FAULTS.get(refused.code, "database")) from None

    def _connected(self, address: Address, until: float) -> socket.socket:
        if not address.port:
            return _reached(self._socket(address, socket.AF_UNIX), address.host, until)
        failure: Exception = Broken("unreachable")
        places = self._resolved(address, until)
        for index, (family, kind, protocol, _, place) in enumerate(places):
            # one that does not answer leaves time for the others
            share = _left(until) / (len(places) - index)
            try:
                sock = _reached(self._socket(address, family, kind, protocol), place, time.monotonic() + share)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                failure = error
        raise failure

    def _socket(self, address: Address, *kind: int) -> socket.socket:
        sock = socket.socket(*kind)
        if self.tls is None:
            return sock
        # before it is connected: ssl loses a connected one unclosed if its peer hangs up just then
        return self.tls.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)

    def _resolved(self, address: Address, until: float) -> list[Any]:
        # the system's resolver keeps no deadline: it is asked in a thread, and what it said last serves when it is late
        answers: SimpleQueue[list[Any] | OSError] = SimpleQueue()

        def resolve() -> None:
            try:
                answers.put(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                answers.put(OSError(str(error)))

        with contextlib.suppress(OSError, UnicodeError):
            return socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            )
        Thread(target=resolve, name="redis-name", daemon=True).start()
        try:
            answer = answers.get(timeout=_left(until))
        except Empty:
            answer = OSError("no answer in time")
        if isinstance(answer, OSError):
            if address not in self._known:
                raise answer
            return self._known[address]
        self._known[address] = answer
        return answer


def context(ca_file: str, cert_file: str, key_file: str, table: str) -> ssl.SSLContext:
    """Verifies chain and host name by `ca_file`, or by what the system trusts.

    ConfigError names the file at fault, in the configuration's `table`.
    """
    with _usable(f"{table}.ca_file", ca_file):
        made = ssl.create_default_context(cafile=ca_file or None)
    if cert_file:
        with _usable(f"{table}.cert_file", cert_file):
            made.load_cert_chain(cert_file, key_file or None, password=_no_password)
    return made


def _no_password() -> str:
    # otherwise OpenSSL asks for one at the terminal
    raise ValueError("the key is encrypted")


@contextlib.contextmanager
def _usable(name: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot use {path} ({error})") from error


def _reached(sock: socket.socket, place: Any, until: float) -> socket.socket:
    try:
        sock.settimeout(_left(until))
        sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return sock


def _left(until: float) -> float:
    # zero would mean "do not wait at all", which is another kind of error
    return max(1e-3, until - time.monotonic())


@contextlib.contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise Broken("certificate") from error
    except TimeoutError as error:
        raise Broken("timeout") from error
    except OSError as error:
        raise Broken("unreachable") from error
