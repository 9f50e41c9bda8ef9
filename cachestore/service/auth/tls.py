"""TLS from files, for gRPC and for plain sockets alike. A server takes changed files up without a restart."""

import logging
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import grpc

from cachestore.errors import ConfigError
from cachestore.service.auth.credentials import SYSTEM, Credentials
from cachestore.service.auth.files import read_private, read_public
from cachestore.service.auth.validity import check_taken
from cachestore.service.settings import ServiceSettings

_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


class Material(NamedTuple):
    """What one state of the files holds: certificates that belong to their key."""

    stamp: Stamp
    cert: bytes
    key: bytes = b""
    client_ca: bytes = b""

    def __repr__(self) -> str:
        return "Material(...)"


@dataclass(eq=False)
class ServerTls:
    """The certificates of a server, as they are in the files of `settings` now. For many threads.

    Files that change to something that cannot be used, such as a certificate whose key is not there yet or one that is
    over, leave what was there before in use, with a warning.
    """

    settings: ServiceSettings
    _material: Material | None = None
    _context: ssl.SSLContext | None = None
    _refused: Stamp = ()
    _lock: Lock = field(default_factory=Lock)

    def open(self) -> None:
        """Reads the files. ConfigError if they cannot be used, or if others may read the key."""
        with self._lock:
            self._load(self._stamp())

    def credentials(self) -> "grpc.ServerCredentials":
        """For a gRPC server; with `client_ca` every client must show a certificate."""
        import grpc

        last = self._current()[0]

        def configuration(material: Material) -> "grpc.ServerCertificateConfiguration":
            pair = [(material.key, material.cert)]
            return grpc.ssl_server_certificate_configuration(pair, material.client_ca or None)

        def fetch() -> "grpc.ServerCertificateConfiguration | None":
            nonlocal last
            material = self._current()[0]
            if material is last:
                return None
            last = material
            return configuration(material)

        # the stubs forget that None means no change
        return grpc.dynamic_ssl_server_credentials(
            configuration(last),
            fetch,  # type: ignore[arg-type]
            bool(self.settings.client_ca),
        )

    def context(self) -> ssl.SSLContext:
        """For a plain socket; to be asked for with every connection, which is cheap while the files do not change."""
        return self._current()[1]

    def _current(self) -> tuple[Material, ssl.SSLContext]:
        with self._lock:
            now = self._stamp()
            if self._material is None:
                self._load(now)
            elif now not in (self._material.stamp, self._refused):
                try:
                    self._load(now)
                    _log.info("new certificates are in use: %s", self.settings.tls_cert)
                except ConfigError as error:
                    self._refused = now
                    _log.warning("the certificates changed and cannot be used, the old ones stay: %s", error)
            assert self._material is not None and self._context is not None
            return self._material, self._context

    def _load(self, now: Stamp) -> None:
        settings = self.settings
        cert = read_public(settings.tls_cert, "service.tls_cert")
        key = read_private(settings.tls_key, "service.tls_key")
        ca = read_public(settings.client_ca, "service.client_ca") if settings.client_ca else b""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_chain(context, settings.tls_cert, settings.tls_key, "service.tls_cert and service.tls_key")
        check_taken(context, cert, "service.tls_cert")
        if ca:
            context.verify_mode = ssl.CERT_REQUIRED
            _load_authority(context, ca, "service.client_ca")
        if self._stamp() != now:
            raise ConfigError(f"service.tls_cert: {settings.tls_cert} changed while it was read")
        self._material, self._context = Material(now, cert, key, ca), context

    def _stamp(self) -> Stamp:
        return stamp(self.settings.tls_cert, self.settings.tls_key, self.settings.client_ca)


def server_context(settings: ServiceSettings) -> ssl.SSLContext:
    """The server's side of TLS under `settings`, from the files as they are now; ConfigError if they cannot be used."""
    return ServerTls(settings).context()


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """The client's side of TLS: verifies the server and its name, shows the client's certificate if there is one.

    ConfigError for files that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if credentials.ca == SYSTEM:
        context.load_default_certs()
    else:
        name = "credentials.ca (CACHESTORE_CA)"
        _load_authority(context, read_public(credentials.ca, name), f"{name}: {credentials.ca}")
    if credentials.cert:
        cert, key = "credentials.cert (CACHESTORE_CERT)", "credentials.key (CACHESTORE_KEY)"
        read_public(credentials.cert, cert)
        read_private(credentials.key, key)
        _load_chain(context, credentials.cert, credentials.key, f"{cert} and {key}")
    return context


def _load_chain(context: ssl.SSLContext, cert: str, key: str, fields: str) -> None:
    def no_password() -> str:
        raise ConfigError(f"{fields}: the key is encrypted; nobody can be asked for its password here, decrypt it")

    try:
        context.load_cert_chain(Path(cert).expanduser(), Path(key).expanduser(), password=no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{fields}: {cert} is no PEM certificate of the key in {key}") from error


def _load_authority(context: ssl.SSLContext, ca: bytes, name: str) -> None:
    try:
        # what is written around certificates may be in any alphabet
        context.load_verify_locations(cadata=ca.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{name} holds no PEM certificates") from error


def stamp(*paths: str) -> Stamp:
    """Changes when one of the files does; an empty path is none."""
    return tuple(map(_stamp, filter(None, paths)))


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(Path(path).expanduser())
    except OSError:
        return (0, 0, 0)
    # the time of the last change of anything, rights too
    return status.st_ino, status.st_ctime_ns, status.st_size
