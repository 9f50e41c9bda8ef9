"""The gateway as the store knows it: a public key, and the tenants' tokens that hold under it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachestore.errors import Unauthenticated
from cachestore.service.auth import tokens
from cachestore.service.auth.files import read_public
from cachestore.service.auth.tokens import Tenant

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MOST_REMEMBERED = 4096
"""Signatures that need not be verified again: a delegate brings the same token with every call of a request."""


@dataclass(eq=False)
class Gateway:
    """The gateway whose key is in the file `path`, which signs for the cluster named `audience`."""

    path: str
    audience: str
    _key: "Ed25519PublicKey | None" = None
    _verified: dict[bytes, Tenant] = field(default_factory=dict)

    def open(self) -> None:
        """Reads the key, if there is one. ConfigError if it cannot be used."""
        if self.path:
            self._key = tokens.load_public(read_public(self.path, "service.gateway_key"), "service.gateway_key")

    def tenant(self, token: str) -> Tenant:
        """Whom the token is for; Unauthenticated unless it holds."""
        if self._key is None:
            raise Unauthenticated("this store takes no tenants' tokens: service.gateway_key is not set")
        digest = tokens.digest_of(token)
        tenant = self._verified.get(digest)
        if tenant is None:
            tenant = tokens.verify(token, self._key, self.audience)
            if len(self._verified) >= MOST_REMEMBERED:
                self._verified.clear()
            self._verified[digest] = tenant
        tokens.check_time(tenant)
        return tenant
