"""API keys: who asks, and in which namespace their blocks live. The file holds digests, never the keys.

[[keys]]
name = "alice"
key = "sha256:<64 hex digits>"    # `cachestore token` makes both
namespace = "acme"
"""

import logging
import tomllib
from dataclasses import dataclass, field
from hmac import compare_digest
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from cachestore.config import build, check_keys
from cachestore.errors import ConfigError
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.files import read_private
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.auth.settings import DIGEST, NAME
from cachestore.service.auth.tls import Stamp, stamp
from cachestore.service.auth.tokens import digest_of, read_signing_key, sign
from gateway.errors import unauthorized
from gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_log = logging.getLogger(__name__)

BEARER = "bearer "
MARGIN = 60.0
"""Seconds by which a tenant's token outlives the longest request: clocks differ, and workers tidy up behind it."""


class Asker(NamedTuple):
    """Who sends a request."""

    name: str
    namespace: str


ANYBODY = Asker("anybody", DEFAULT_NAMESPACE)


def acting_for(credentials: Credentials, tenant: str) -> Credentials:
    """The gateway's credentials for the tenant of this token; as they are where there are no tenants."""
    return credentials.for_tenant(tenant) if tenant else credentials


@dataclass(frozen=True)
class KeySettings:
    """One `[[keys]]`: `key` is the digest of what the client shows."""

    name: str
    key: str
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        for each in ("name", "namespace"):
            if not NAME.fullmatch(getattr(self, each)):
                raise ConfigError(f"keys.{each} must be letters, digits and ._:@/-, got {getattr(self, each)!r}")
        if not DIGEST.fullmatch(self.key):
            # never the value: it may be the key itself
            raise ConfigError(f"keys ({self.name}): key must be the digest that `cachestore token` shows: sha256:<hex>")


@dataclass(eq=False)
class Keys:
    """The file that `settings.keys` names, read again when it has changed. Without one everybody is `ANYBODY`."""

    settings: GatewaySettings
    _known: tuple[tuple[bytes, Asker], ...] = ()
    _stamp: Stamp = ()
    _refused: Stamp = ()
    _signing: "Ed25519PrivateKey | None" = None
    _lock: Lock = field(default_factory=Lock)

    def open(self) -> None:
        """Reads both files. ConfigError if one cannot be used, or if namespaces would be in name only."""
        if self.settings.signing_key:
            self._signing = read_signing_key(self.settings.signing_key, "gateway.signing_key")
        if self.settings.keys:
            self._read()

    def asker(self, authorization: str) -> Asker:
        """Who shows this header; ApiError 401 for a key that nobody knows."""
        if not self.settings.keys:
            return ANYBODY
        if authorization[: len(BEARER)].lower() != BEARER:
            raise unauthorized("no API key: send it as `Authorization: Bearer <key>`")
        digest = digest_of(authorization[len(BEARER) :].strip())
        found: Asker | None = None
        # all of them are looked at, always: how long it takes says nothing of how far a guess came
        for known, asker in self._current():
            if compare_digest(known, digest):
                found = found or asker
        if found is None:
            raise unauthorized("the API key is not one that this gateway knows")
        return found

    def token(self, asker: Asker) -> str:
        """The tenant's token for one request; empty where workers and store know no tenants."""
        if self._signing is None:
            return ""
        settings = self.settings
        return sign(self._signing, asker.namespace, audience=settings.audience, ttl=settings.request_timeout + MARGIN)

    def _current(self) -> tuple[tuple[bytes, Asker], ...]:
        if stamp(self.settings.keys) not in (self._stamp, self._refused):
            with self._lock:
                seen = stamp(self.settings.keys)
                try:
                    self._read()
                except ConfigError as error:
                    # half of a file must lock nobody out
                    self._refused = seen
                    _log.warning("%s; the keys that were there before stay in use", error)
        return self._known

    def _read(self) -> None:
        before = stamp(self.settings.keys)
        content = read_private(self.settings.keys, "gateway.keys")
        try:
            tables = tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"gateway.keys: {self.settings.keys} is not TOML: {error}") from None
        check_keys(["keys"], tables, "")
        listed = tables.get("keys", [])
        if not isinstance(listed, list):
            raise ConfigError("gateway.keys: write [[keys]] with name, key and namespace")
        keys = [build(KeySettings, table, f"keys[{index}]") for index, table in enumerate(listed)]
        if self._signing is None and any(key.namespace != DEFAULT_NAMESPACE for key in keys):
            raise ConfigError(
                "gateway.keys names namespaces, and nothing would keep them apart: set gateway.signing_key, and the "
                "public key beside it as service.gateway_key of stores and workers (`cachestore certs` makes both)"
            )
        self._known = tuple(
            (bytes.fromhex(key.key.removeprefix("sha256:")), Asker(key.name, key.namespace)) for key in keys
        )
        self._stamp = before
