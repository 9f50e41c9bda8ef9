"""Who makes a call, from what the caller shows: a token, a certificate, a tenant's token."""

import re
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

from cachestore.errors import Mismatch, PermissionDenied, Unauthenticated
from cachestore.service.auth.credentials import AUTHORIZATION, MEANT, PEER, TENANT
from cachestore.service.auth.gateway import Gateway
from cachestore.service.auth.identity import LOCAL, Identity, Role
from cachestore.service.auth.tokens import digest_of
from cachestore.service.settings import ServiceSettings

BEARER = "Bearer "

NAMESPACE_ID = re.compile("[0-9a-f]{64}")


def anyone(incarnation: str) -> bool:
    """Whether a store that joined no directory is the node of this life: nobody can mean another one."""
    return True


class Authority:
    """Knows the identities of `settings`. Without any everybody is `LOCAL`; with one, nobody is anonymous any more.

    `is_life` says whether this store is, or was, the node of the life whose incarnation it is given, in hex.
    """

    def __init__(self, settings: ServiceSettings, is_life: Callable[[str], bool] = anyone) -> None:
        self._is_life = is_life
        self._known = [(each.digest, each.certificate, each.identity()) for each in settings.identities]
        self._certificates = any(certificate for _, certificate, _ in self._known)
        self._gateway = Gateway(settings.gateway_key, settings.audience)

    def open(self) -> None:
        """Reads the gateway's key. ConfigError if it cannot be used."""
        self._gateway.open()

    def identify(self, context: "grpc.ServicerContext") -> Identity:
        """Who makes this call. Unauthenticated if nobody knows; PermissionDenied for a tenant's token of a caller
        that is no delegate, and for a namespace named by one that is no peer; Mismatch for a peer that means another
        node than this one."""
        shown = _shown(context.invocation_metadata() or ())
        identity = self._recognised(shown.get(AUTHORIZATION, ""), context) if self._known else LOCAL
        if PEER in shown:
            peer = self._peer(identity, shown[PEER])
            if MEANT in shown and not self._is_life(shown[MEANT]):
                raise Mismatch(
                    "the store at this address is not the node that is meant: another one tells others the same "
                    "address, or was started in its place"
                )
            return peer
        if TENANT not in shown:
            return identity
        if identity.role is not Role.delegate:
            # also where nobody is named: blocks of a tenant must not end up where everybody's are
            raise PermissionDenied(f"{identity.name} is no delegate, and so acts for no tenant")
        tenant = self._gateway.tenant(shown[TENANT])
        return Identity(identity.name, tenant.namespace, tenant.role, tenant.expires, shown[TENANT])

    def _peer(self, identity: Identity, namespace: str) -> Identity:
        # where nobody is named everybody is on this machine, and there is one namespace
        if self._known and identity.role is not Role.peer:
            raise PermissionDenied(f"{identity.name} is no peer, and so acts in no namespace but its own")
        if not NAMESPACE_ID.fullmatch(namespace):
            raise Unauthenticated(f"the metadata {PEER} must be the id of a namespace: 64 hex digits")
        return Identity(identity.name, namespace, Role.peer)

    def _recognised(self, authorization: str, context: "grpc.ServicerContext") -> Identity:
        token = authorization[len(BEARER) :] if authorization[: len(BEARER)].lower() == BEARER.lower() else ""
        digest = digest_of(token) if token else b""
        names = _names(context.auth_context()) if self._certificates else ()
        found: Identity | None = None
        # all of them are looked at, always: how long it takes says nothing of how far a guess came
        for known, certificate, identity in self._known:
            same = compare_digest(known, digest)
            if same and (not certificate or certificate in names):
                found = found or identity
        if found is not None:
            return found
        if authorization:
            raise Unauthenticated("the token is not one that this store knows, or needs its certificate beside it")
        raise Unauthenticated(
            "this store answers only callers it knows: show a token (CACHESTORE_TOKEN or CACHESTORE_TOKEN_FILE)"
            + (", or a certificate that it knows" if self._certificates else "")
        )


def _shown(metadata: Sequence[Any]) -> dict[str, str]:
    """The caller's tokens. Unauthenticated if it shows two of a kind: they could be read in either order."""
    shown: dict[str, str] = {}
    for name, value in metadata:
        if name in (AUTHORIZATION, MEANT, PEER, TENANT):
            if name in shown or not isinstance(value, str):
                raise Unauthenticated(f"the metadata {name} must be there once, as text")
            shown[name] = value
    return shown


def _names(peer: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in the certificate that the caller's handshake proved; the common name only where there are no others
    (RFC 6125, 6.4.4)."""
    if list(peer.get("transport_security_type", ())) != [b"ssl"]:
        return ()
    names = peer.get("x509_subject_alternative_name") or peer.get("x509_common_name") or ()
    return tuple(name.decode("utf-8", "replace") for name in names)
