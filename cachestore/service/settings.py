"""The `[service]` section: where the store listens, whom it knows, and the bounds it works under."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from cachestore.config import Bytes, Seconds, build, check_keys
from cachestore.errors import ConfigError
from cachestore.service.auth.settings import NAME, IdentitySettings

SOCKET_BYTES = 107
"""Bytes of the longest path of a unix socket: the 108 of sockaddr_un.sun_path, less the one that ends it (unix(7))."""

FILES = ("tls_cert", "tls_key", "client_ca", "gateway_key")
"""Settings that name files."""

MAX_MESSAGE = 4 << 20
"""Bytes of the largest message either side takes; a protocol constant, so that both sides agree on it."""


_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\.?(?<![0-9])(?<![0-9]\.)")
"""A host's name, which ends in a letter; what ends in a digit is an address."""


def located(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables of a configuration in `folder`, with the relative paths of keys and certificates made absolute."""
    service = tables.get("service")
    if not isinstance(service, dict):
        return tables
    named = {name: service[name] for name in FILES if isinstance(service.get(name), str) and service[name]}
    return {
        **tables,
        "service": {**service, **{name: str(folder / Path(at).expanduser()) for name, at in named.items()}},
    }


def _identities(tables: object) -> object:
    if not isinstance(tables, list | tuple):
        raise ConfigError("service.identities must be tables: write [[service.identities]]")
    return tuple(_identity(table, f"service.identities[{index}]") for index, table in enumerate(tables))


def _identity(table: object, where: str) -> IdentitySettings:
    if isinstance(table, IdentitySettings):
        return table
    if not isinstance(table, Mapping):
        # never the value: it may be a token
        raise ConfigError(
            f"{where} must be a table, got {type(table).__name__}: write [[service.identities]] with name, role and "
            "token or certificate"
        )
    check_keys([field.name for field in fields(IdentitySettings)], table, where)
    for name in ("name", "role"):
        if name not in table:
            raise ConfigError(f"{where}.{name} is missing: every identity needs name, role and token or certificate")
    for name, value in table.items():
        if not isinstance(value, str):
            raise ConfigError(f"{where}.{name} must be text in quotes, got {type(value).__name__}")
    return build(IdentitySettings, table, where)


@dataclass(frozen=True)
class ServiceSettings:
    """Where the store listens, whom it knows, and the bounds it works under.

    `port = 0` picks a free port. With `unix_socket` the store listens there instead; its directory must be private.
    `bulk_port` is where payloads are fetched from other nodes: 0 picks a free port, -1 turns that way off. Clients find
    it at the host that they call, or at `advertise`, where that is another: several stores behind one name. `shared`
    lets clients of this node map the store's memory.

    With `tls_cert` and `tls_key` the port speaks TLS, with `client_ca` too every client must show a certificate of that
    authority. `identities` are the callers the store knows; with none, whoever reaches it is its admin. With
    `gateway_key`, the public key of a gateway, delegates may bring tokens it signed for the cluster named `audience`.
    Off loopback TLS and identities are needed; `insecure` waives that. In a configuration relative paths of files begin
    at its directory (`located`), else at the working directory; that of the socket must be absolute, and its directory
    be there.

    `max_concurrent` calls run at once, and hold `in_flight_bytes` of messages and planes on their way; of several
    identities each may have half. `longest_call` ends calls that bring no deadline of their own, or a longer one. Who
    moves nothing for `stall` is cut off. When the server ends, calls that run have `drain` to finish, and new ones are
    refused. Tiers and paths are tried every `probe_every`.
    """

    host: str = "127.0.0.1"
    port: int = 7420
    unix_socket: str = ""
    bulk_port: int = 0
    advertise: str = ""
    shared: bool = True
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    identities: Annotated[tuple[IdentitySettings, ...], BeforeValidator(_identities)] = ()
    gateway_key: str = ""
    audience: str = "cachestore"
    insecure: bool = False
    max_concurrent: int = 64
    frame_bytes: Bytes = 1 << 20
    in_flight_bytes: Bytes = 512 << 20
    longest_call: Seconds = 300.0
    stall: Seconds = 10.0
    drain: Seconds = 5.0
    probe_every: Seconds = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"service.port must lie in 0 .. 65535, got {self.port}")
        if not -1 <= self.bulk_port < 1 << 16:
            raise ConfigError(f"service.bulk_port must lie in 0 .. 65535, or be -1 for none, got {self.bulk_port}")
        if self.advertise and not _HOST.fullmatch(self.advertise) and not _is_one_address(self.advertise):
            raise ConfigError(
                f"service.advertise must be the one host name or IP address at which clients reach this store, without "
                f"a port, got {self.advertise!r}; leave it out for the host that they call"
            )
        if (length := len(os.fsencode(self.unix_socket))) > SOCKET_BYTES:
            raise ConfigError(
                f"service.unix_socket has {length} bytes, and a socket's address takes {SOCKET_BYTES}; use a shorter "
                "path, such as one below /run"
            )
        if self.unix_socket and not os.path.isabs(self.unix_socket):
            raise ConfigError(f"service.unix_socket must be an absolute path, got {self.unix_socket!r}")
        if self.max_concurrent < 1:
            raise ConfigError(f"service.max_concurrent must be at least 1, got {self.max_concurrent}")
        if not 4096 <= self.frame_bytes <= MAX_MESSAGE // 2:
            raise ConfigError(f"service.frame_bytes must lie in 4KiB .. {MAX_MESSAGE >> 21}MiB, got {self.frame_bytes}")
        # of several callers each may have half
        least = 2 * MAX_MESSAGE * min(2, max(1, len(self.identities)))
        if self.in_flight_bytes < least:
            raise ConfigError(f"service.in_flight_bytes must be at least {least >> 20}MiB, got {self.in_flight_bytes}")
        for name in ("longest_call", "stall", "probe_every"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"service.{name} must be more than 0 seconds, got {getattr(self, name)}")
        if self.drain < 0:
            raise ConfigError(f"service.drain must be 0 seconds or more, got {self.drain}")
        self._check_callers()
        self._check_reach()

    @property
    def target(self) -> str:
        """The address in the form that gRPC listens on."""
        if self.unix_socket:
            return f"unix:{self.unix_socket}"
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def tls(self) -> bool:
        """Whether the port speaks TLS. A unix socket never does: its directory is private."""
        return bool(self.tls_cert) and not self.unix_socket

    @property
    def exposed(self) -> bool:
        """Whether somebody off this machine could reach the store without TLS, or without saying who they are."""
        return not self.unix_socket and not is_loopback(self.host) and not (self.tls and self.identities)

    def _check_callers(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("service.tls_cert and service.tls_key belong together; give both or neither")
        if self.client_ca and not self.tls_cert:
            raise ConfigError(
                "service.client_ca needs service.tls_cert and service.tls_key: only TLS asks for certificates"
            )
        names = [identity.name for identity in self.identities]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"service.identities: {name!r} is there twice")
        tokens = [identity.token for identity in self.identities if identity.token]
        if len(set(tokens)) < len(tokens):
            raise ConfigError("service.identities: two have the same token; make one for each with `cachestore token`")
        alone = [identity.certificate for identity in self.identities if not identity.token]
        for name in alone:
            if alone.count(name) > 1:
                raise ConfigError(
                    f"service.identities: two are known by the certificate {name!r} alone; make one for each with "
                    "`cachestore certs`, or give one of them a token too"
                )
        if self.unix_socket and self.identities and all(identity.certificate for identity in self.identities):
            raise ConfigError(
                "service.unix_socket speaks no TLS, so nobody can show a certificate there, and every one of "
                "service.identities needs one; give one of them a token alone, or listen at service.port"
            )
        for identity in self.identities:
            if identity.certificate and not self.client_ca:
                raise ConfigError(
                    f"service.identities ({identity.name}): a certificate needs service.client_ca, which vouches for it"
                )
        if not NAME.fullmatch(self.audience):
            raise ConfigError(f"service.audience must be letters, digits and ._:@/-, got {self.audience!r}")
        if self.gateway_key and not any(identity.role == "delegate" for identity in self.identities):
            raise ConfigError("service.gateway_key needs an identity with role delegate, for nobody else may use it")

    def _check_reach(self) -> None:
        if self.unix_socket or is_loopback(self.host):
            return
        try:
            ip_address(self.host)
        except ValueError:
            raise ConfigError(
                f"service.host = {self.host!r} is no IP address of this machine; use for example 127.0.0.1, localhost, "
                "0.0.0.0 or ::"
            ) from None
        if self.exposed and not self.insecure:
            raise ConfigError(
                f"service.host = {self.host!r} is not loopback: anyone who reaches the port could read and write every "
                "cache; give service.tls_cert, service.tls_key and service.identities (`cachestore certs` and "
                "`cachestore token` make them), listen on 127.0.0.1 or service.unix_socket, or spell it out with "
                "service.insecure = true"
            )


def _is_one_address(host: str) -> bool:
    try:
        return not ip_address(host).is_unspecified
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached on its own machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
