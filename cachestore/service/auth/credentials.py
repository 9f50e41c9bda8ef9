"""What a client shows to a store, and what it demands of it."""

import os
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from cachestore.errors import ConfigError
from cachestore.service.auth.files import read_private

AUTHORIZATION = "authorization"
"""The metadata that carries the caller's token, as `Bearer <token>`."""

TENANT = "cachestore-tenant"
"""The metadata in which a delegate carries its tenant's token."""

SYSTEM = "system"
"""In place of an authority's file: those that the machine trusts."""

PEER = "cachestore-peer"
"""The metadata in which another node says in whose namespace it acts: the namespace's id in hex."""

MEANT = "cachestore-life"
"""The metadata in which another node says whom it means: the incarnation of a life in the directory, in hex."""

ENVIRONMENT = "CACHESTORE_"
"""Before the name of a field: the environment variable that sets it, as in CACHESTORE_TOKEN_FILE."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Credentials:
    """What a client shows to a store, and what it demands of it.

    `ca` is the file of the authority that vouches for stores, or "system" for those the machine trusts; with it the
    connection is TLS and nothing less. `cert` and `key` are this client's own. The token is `token`, or what
    `token_file` holds, read for every call so that it can be changed. `server_name` is the name that the store's
    certificate must bear if it is not the one in the address. `tenant` is a delegate's: the token of whom it acts for.
    `peer` is another node's: the id of the namespace in which it acts, in hex; `meant` is the incarnation of the life
    that it means to reach, in hex, and whoever is not that refuses.
    Relative paths are looked up in the working directory.

    A token is never sent without TLS off this machine, unless `insecure` says so.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    server_name: str = ""
    tenant: str = field(default="", repr=False)
    peer: str = ""
    meant: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ConfigError("credentials: cert and key belong together; give both or neither")
        if self.cert and not self.ca:
            raise ConfigError("credentials: cert needs ca, the authority that vouches for the store")
        if self.token and self.token_file:
            raise ConfigError("credentials: give token or token_file, not both")
        for name in ("token", "tenant"):
            check_token(getattr(self, name), f"credentials.{name}")

    @classmethod
    def from_environment(cls) -> "Credentials":
        """CACHESTORE_CA, _CERT, _KEY, _TOKEN, _TOKEN_FILE, _SERVER_NAME, _TENANT; none of them: nothing is shown."""

        def value(name: str) -> str:
            return os.environ.get(ENVIRONMENT + name, "")

        return cls(
            ca=value("CA"), cert=value("CERT"), key=value("KEY"), token=value("TOKEN"), token_file=value("TOKEN_FILE"),
            server_name=value("SERVER_NAME"), tenant=value("TENANT"),
        )  # fmt: skip

    def for_tenant(self, token: str) -> "Credentials":
        """The same for the tenant whose token the gateway signed."""
        return replace(self, tenant=token)

    def for_namespace(self, namespace: bytes, incarnation: bytes = b"") -> "Credentials":
        """The same of a node that acts in the namespace of this id, and means the node of this life alone."""
        return replace(self, peer=namespace.hex(), meant=incarnation.hex())

    @property
    def tls(self) -> bool:
        """Whether the store must speak TLS."""
        return bool(self.ca)

    def metadata(self, address: str) -> Metadata:
        """What goes with every call to `address`; ConfigError rather than a token that others could read."""
        token = self.token
        if self.token_file:
            name = "credentials.token_file (CACHESTORE_TOKEN_FILE)"
            token = read_private(self.token_file, name).decode("ascii", "replace").strip()
            check_token(token, name)
        acting: Metadata = ((PEER, self.peer),) if self.peer else ()
        if self.meant:
            acting = (*acting, (MEANT, self.meant))
        if not token and not self.tenant:
            return acting
        if not self.tls and not self.insecure and not stays_here(address):
            raise ConfigError(
                f"no token is sent to {address} without TLS: anyone on the way could read it; name the authority that "
                f"vouches for the store in {ENVIRONMENT}CA"
            )
        shown: Metadata = ((AUTHORIZATION, f"Bearer {token}"),) if token else ()
        return (*shown, *acting, (TENANT, self.tenant)) if self.tenant else (*shown, *acting)


def check_token(token: str, name: str) -> None:
    """ConfigError for what cannot be a token; it names the field and never shows the value."""
    if token and (len(token) > 1024 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(f"{name} is no token: it must be one word of at most 1024 printable characters")


def stays_here(address: str) -> bool:
    """Whether nothing sent to `address` leaves this machine."""
    if address.startswith("unix:"):
        return True
    host = host_of(address)
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host in `host:port`, `[host]:port` or either behind `dns:`."""
    return address.removeprefix("dns:").lstrip("/").rpartition(":")[0].strip("[]")
