"""Tokens: secrets that name a caller, and a gateway's short-lived word on which tenant a delegate acts for.

A caller's token is 32 random bytes as text; the store knows its SHA-256 alone. No slow hash is needed against guessing
something of 256 random bits.

A tenant's token is text too: base64url, without padding, of the framed fields and an Ed25519 signature (RFC 8032, 64
bytes) of everything before it. Each field is its number (u8), its length (u16, big-endian) and its bytes, in order:

    0  "cachestore tenant v1"          4  issued, u64 big-endian, ms since 1970
    1  namespace, ASCII                5  expires, the same
    2  role, "reader" or "writer"      6  nonce, 16 random bytes
    3  audience, ASCII

There is one algorithm and one layout, so nothing in a token chooses how it is checked.
"""

import os
import secrets
import struct
import time
from base64 import b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from cachestore.errors import ConfigError, InvalidArgument, Unauthenticated
from cachestore.service.auth.files import read_private, read_public
from cachestore.service.auth.identity import Role
from cachestore.service.auth.settings import NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX = "kvs_"
"""Begins every caller's token, so that scanners for secrets find those that were published by mistake."""

KIND = b"cachestore tenant v1"
FIELDS = 7
NONCE_BYTES = 16
SIGNATURE_BYTES = 64
MOST_CHARACTERS = 1024

PRIVATE_FILE, PUBLIC_FILE = "gateway.key", "gateway.pub"
"""What `cachestore certs` calls the files of a gateway's key."""

LONGEST = 3600.0
"""Seconds that a tenant's token may live: it cannot be taken back."""

SKEW = 10.0
"""Seconds by which the clocks of gateway and store may differ."""

_TENANT_ROLES = {role.name: role for role in (Role.reader, Role.writer)}


class Tenant(NamedTuple):
    """Whom a delegate acts for. Times are seconds since 1970."""

    namespace: str
    role: Role
    audience: str
    issued: float
    expires: float


def new_token() -> str:
    """A caller's token."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """What the store knows of a token."""
    return sha256(token.encode()).digest()


def sign(
    key: "Ed25519PrivateKey", namespace: str, *, role: str = "writer", audience: str = "cachestore", ttl: float = 300.0
) -> str:
    """A tenant's token, good for `ttl` seconds from now; InvalidArgument for what no store would accept."""
    for field, value in (("namespace", namespace), ("audience", audience)):
        if not NAME.fullmatch(value):
            raise InvalidArgument(f"{field} must be letters, digits and ._:@/-, got {value!r}")
    if role not in _TENANT_ROLES:
        raise InvalidArgument(f"role must be one of {', '.join(_TENANT_ROLES)}, got {role!r}")
    if not 0 < ttl <= LONGEST:
        raise InvalidArgument(f"ttl must be more than 0 and at most {LONGEST:g} seconds, got {ttl}")
    now = time.time()
    times = (int(moment * 1000).to_bytes(8, "big") for moment in (now, now + ttl))
    fields = (KIND, namespace.encode(), role.encode(), audience.encode(), *times, os.urandom(NONCE_BYTES))
    body = b"".join(struct.pack(">BH", number, len(value)) + value for number, value in enumerate(fields))
    return urlsafe_b64encode(body + key.sign(body)).rstrip(b"=").decode()


def verify(token: str, key: "Ed25519PublicKey", audience: str) -> Tenant:
    """What the gateway with this key says. Unauthenticated unless it said just this, lately, and to `audience`."""
    from cryptography.exceptions import InvalidSignature

    signed = _decoded(token)
    body, signature = signed[:-SIGNATURE_BYTES], signed[-SIGNATURE_BYTES:]
    try:
        key.verify(signature, body)
    except InvalidSignature:
        raise Unauthenticated("the tenant's token is not signed by this store's gateway") from None
    tenant = _parsed(body)
    if tenant.audience != audience:
        raise Unauthenticated("the tenant's token is for another cluster")
    check_time(tenant)
    return tenant


def check_time(tenant: Tenant) -> None:
    """Unauthenticated unless the token holds now."""
    now = time.time()
    if not tenant.issued - SKEW <= now < tenant.expires + SKEW:
        raise Unauthenticated("the tenant's token is expired, or not good yet; have the gateway sign another")
    if tenant.expires - tenant.issued > LONGEST:
        raise Unauthenticated(f"the tenant's token lives longer than {LONGEST:g} seconds")


def load_public(content: bytes, field: str) -> "Ed25519PublicKey":
    """The key in a PEM file; ConfigError names `field`."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ModuleNotFoundError as error:
        raise ConfigError(_MISSING) from error
    if b"PRIVATE KEY" in content:
        raise ConfigError(
            f"{field} holds a private key, which is the gateway's alone; give the public one, {PUBLIC_FILE}"
        )
    try:
        key = load_pem_public_key(content)
    except ValueError as error:
        raise ConfigError(f"{field} holds no public key in PEM form") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{field} must hold an Ed25519 key; `cachestore certs` makes one, {PUBLIC_FILE}")
    return key


def load_private(content: bytes, field: str) -> "Ed25519PrivateKey":
    """The key in a PEM file; ConfigError names `field`."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ModuleNotFoundError as error:
        raise ConfigError(_MISSING) from error
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{field} holds no private key in PEM form without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{field} must hold an Ed25519 key; `cachestore certs` makes one, {PRIVATE_FILE}")
    return key


def read_signing_key(path: str, field: str) -> "Ed25519PrivateKey":
    """The gateway's private key in this file, which nobody else may read; ConfigError names `field`."""
    # which file is meant comes before who may read it: what is public need not be hidden
    if b"PRIVATE KEY" not in read_public(path, field):
        raise ConfigError(
            f"{field}: {path} holds no private key; signing needs the gateway's, which `cachestore certs` writes as "
            f"{PRIVATE_FILE} (with {PUBLIC_FILE} stores verify)"
        )
    return load_private(read_private(path, field), field)


_MISSING = "tenants' tokens need the package 'cryptography'; install it with: pip install 'kv-cachestore[sealing]'"


def _decoded(token: str) -> bytes:
    if len(token) > MOST_CHARACTERS or not token.isascii():
        raise _malformed()
    try:
        signed = b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _malformed() from None
    # one text for one token: nothing may be changed in it that base64 overlooks
    if urlsafe_b64encode(signed).rstrip(b"=").decode() != token or len(signed) <= SIGNATURE_BYTES:
        raise _malformed()
    return signed


def _parsed(body: bytes) -> Tenant:
    fields: list[bytes] = []
    at = 0
    for number in range(FIELDS):
        head = body[at : at + 3]
        if len(head) < 3 or head[0] != number:
            raise _malformed()
        size = int.from_bytes(head[1:], "big")
        fields.append(body[at + 3 : at + 3 + size])
        at += 3 + size
    kind, namespace, role, audience, issued, expires, nonce = fields
    names = [field.decode("ascii", "replace") for field in (namespace, role, audience)]
    if (
        at != len(body)
        or kind != KIND
        or len(issued) != 8
        or len(expires) != 8
        or len(nonce) != NONCE_BYTES
        or not NAME.fullmatch(names[0])
        or names[1] not in _TENANT_ROLES
    ):
        raise _malformed()
    issued_ms, expires_ms = int.from_bytes(issued, "big"), int.from_bytes(expires, "big")
    return Tenant(names[0], _TENANT_ROLES[names[1]], names[2], issued_ms / 1000, expires_ms / 1000)


def _malformed() -> Unauthenticated:
    return Unauthenticated("the tenant's token is malformed")
