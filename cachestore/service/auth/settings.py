"""One `[[service.identities]]`: a caller that the store knows, and how it is recognised."""

import re
from dataclasses import dataclass

from cachestore.errors import ConfigError
from cachestore.registry import nearest
from cachestore.service.auth.identity import DEFAULT_NAMESPACE, Identity, Role

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
"""Names of identities and namespaces: they appear in logs and figures, so nothing in them may need escaping."""

DIGEST = re.compile("sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class IdentitySettings:
    """A caller, known by the digest of its `token` (`cachestore token` makes both), by a name in its `certificate`, or
    by both together: all that stands here must be shown.

    The name of a certificate is one of its alternative names, or its common name if it has none. `namespace` is where
    the caller's blocks live; a delegate has none unless one is given, and then acts only for tenants; a peer, which is
    another node, has none at all.
    """

    name: str
    role: str
    namespace: str = ""
    token: str = ""
    certificate: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"service.identities.name must be letters, digits and ._:@/-, got {self.name!r}")
        where = f"service.identities ({self.name})"
        roles = [role.name for role in Role]
        if self.role not in roles:
            raise ConfigError(f"{where}: unknown role {self.role!r}; {nearest(self.role, roles)}")
        if self.namespace and not NAME.fullmatch(self.namespace):
            raise ConfigError(f"{where}: namespace must be letters, digits and ._:@/-, got {self.namespace!r}")
        if self.token and not DIGEST.fullmatch(self.token):
            # never the value: it may be the token itself
            raise ConfigError(
                f"{where}: token must be the digest that `cachestore token` shows: sha256:<64 hex digits>"
            )
        if self.namespace and self.role == Role.peer.name:
            raise ConfigError(f"{where}: a peer names the namespace with each call; leave namespace out")
        if not self.token and not self.certificate:
            raise ConfigError(f"{where}: needs a token or a certificate, or nobody could be recognised")

    def identity(self) -> Identity:
        """Who this is, once recognised."""
        role = Role[self.role]
        nobodys = role in (Role.delegate, Role.peer)
        return Identity(self.name, self.namespace or ("" if nobodys else DEFAULT_NAMESPACE), role)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the token; empty if none is asked for."""
        return bytes.fromhex(self.token.removeprefix("sha256:"))
