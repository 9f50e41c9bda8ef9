"""A certificate authority for development and tests: one server, some clients, and a gateway's key, as files.

What stands before real users should have certificates from whoever issues them there; the store only needs files.
"""

import os
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cachestore.errors import ConfigError, InvalidArgument
from cachestore.service.auth.files import read_private, read_public, write_private, write_public
from cachestore.service.auth.issuing import (
    AUTHORITY_DAYS,
    Issuer,
    Pair,
    issuer_of,
    names_in,
    new_authority,
    private_pem,
    read_certificate,
)
from cachestore.service.auth.tokens import PRIVATE_FILE, PUBLIC_FILE, load_private

if TYPE_CHECKING:
    from cryptography import x509

SERVER = "server"
OURS = ("ca", SERVER, "gateway")
"""Names of files, so no client's."""

MOST_CLIENT = 63
"""Characters of a client's name: it is a common name, which has 64 at most (RFC 5280, A.1), and one label of a host."""

_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")


class Made(NamedTuple):
    """The files of an authority's directory, and what was made of them: a certificate of the server for `names`, if
    there are any, and those of `clients`."""

    folder: Path
    names: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.folder / "ca.key"

    def cert(self, name: str = SERVER) -> Path:
        """The certificate of the server or of a client."""
        return self.folder / f"{name}.crt"

    def key(self, name: str = SERVER) -> Path:
        """The key beside it."""
        return self.folder / f"{name}.key"

    @property
    def gateway_key(self) -> Path:
        return self.folder / PRIVATE_FILE

    @property
    def gateway_public(self) -> Path:
        return self.folder / PUBLIC_FILE


def make(folder: Path, names: Sequence[str], clients: Sequence[str], *, days: float = 90) -> Made:
    """Makes in `folder` a server's certificate for `names`, host names and addresses, and one for each of `clients`.
    Authority, and the key a gateway signs tenants' tokens with, are those that are there, or made too.

    Certificates that are there stay as they are; ConfigError for one that is asked for again, or for files that cannot
    be used, InvalidArgument for what cannot be in a certificate.
    """
    made = _asked(folder, names, clients, days)
    if not _leaves(made):
        raise ConfigError(
            f"{folder} has its authority; --renew replaces certificates, --client with a new name adds one"
        )
    advice = "--renew replaces certificates" if made.ca.exists() else "no authority of it is there: move it away"
    for name in _leaves(made):
        for path in (made.cert(name), made.key(name)):
            if path.exists():
                raise ConfigError(f"{path} exists; {advice}")
    _directory(folder)
    if not made.ca.exists():
        pair = new_authority()
        write_private(made.ca_key, pair.key)
        write_public(made.ca, pair.cert)
    _gateway(made)
    _issue(made, _authority(made), _leaves(made), days)
    return made


def renew(folder: Path, names: Sequence[str], clients: Sequence[str], *, days: float = 90) -> Made:
    """Replaces certificates and keys in `folder`, by the same authority: the server's, now for `names`, and those of
    `clients`; with neither given all that this authority signed, for the names that stand in them.

    ConfigError where there is no authority, or for files that cannot be used, InvalidArgument as in `make`.
    """
    made = _asked(folder, names, clients, days)
    if not made.ca.exists():
        raise ConfigError(f"{made.ca} is not there, so nothing can be renewed; leave --renew away to make an authority")
    issuer = _authority(made)
    leaves = _leaves(made) or _there(made, issuer)
    if not leaves:
        raise ConfigError(f"no certificate in {folder} is of its authority, so nothing is renewed; give --name")
    _issue(made, issuer, leaves, days)
    renewed = tuple(name for name in leaves if name != SERVER)
    return Made(folder, tuple(leaves.get(SERVER, ())), renewed)


def _asked(folder: Path, names: Sequence[str], clients: Sequence[str], days: float) -> Made:
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "certificates need the package 'cryptography'; install it with: pip install 'kv-cachestore[sealing]'"
        ) from error
    if not 0 < days <= AUTHORITY_DAYS:
        raise InvalidArgument(
            f"--days must be more than 0 and at most {AUTHORITY_DAYS}, what an authority has, got {days:g}"
        )
    for name in names:
        _check_host(name)
    for name in clients:
        if not _HOST.fullmatch(name) or len(name) > MOST_CLIENT or name in OURS:
            raise InvalidArgument(
                f"--client must be a name of at most {MOST_CLIENT} letters, digits, dots and dashes, and none of "
                f"{', '.join(OURS)}, got {name!r}"
            )
    return Made(folder, tuple(dict.fromkeys(names)), tuple(dict.fromkeys(clients)))


def _check_host(name: str) -> None:
    try:
        ip_address(name)
    except ValueError:
        if "*" in name:
            raise InvalidArgument(
                f"--name: {name!r} is a wildcard, and no certificate is made for hosts unknown; give --name for each"
            ) from None
        if not _HOST.fullmatch(name):
            raise InvalidArgument(
                "--name must be an address, or a host name of letters, digits, dots and dashes, with at most 63 "
                f"characters between two dots and 253 in all, got {name!r}"
            ) from None


def _leaves(made: Made) -> dict[str, Sequence[str]]:
    """The names that stand in each certificate that was asked for."""
    server = {SERVER: made.names} if made.names else {}
    return {**server, **{name: [name] for name in made.clients}}


def _there(made: Made, issuer: Issuer) -> dict[str, Sequence[str]]:
    """The same of those that are there; what another authority signed is somebody else's."""
    found: dict[str, x509.Certificate] = {}
    for path in sorted(made.folder.glob("*.crt")):
        if path != made.ca:
            found[path.stem] = read_certificate(read_public(str(path), path.name), str(path))
    return {name: names_in(cert) or [name] for name, cert in found.items() if issuer.issued(cert)}


def _directory(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {folder}: {error.strerror}") from error


def _authority(made: Made) -> Issuer:
    pair = Pair(read_public(str(made.ca), "ca.crt"), read_private(str(made.ca_key), "ca.key"))
    return issuer_of(pair, f"{made.ca} and {made.ca_key}")


def _issue(made: Made, issuer: Issuer, leaves: dict[str, Sequence[str]], days: float) -> None:
    pairs = {name: issuer.issue(name, names, days, server=name == SERVER) for name, names in leaves.items()}
    for name, pair in pairs.items():
        # the key first: a certificate without its key is of no use, and servers wait for the pair to fit
        _replace(made.key(name), pair.key, write_private)
        _replace(made.cert(name), pair.cert, write_public)


def _replace(path: Path, content: bytes, write: Callable[[Path, bytes], None]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    write(draft, content)
    draft.replace(path)


def _gateway(made: Made) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    # the private one may have gone where it is needed
    if made.gateway_public.exists():
        return
    if made.gateway_key.exists():
        key = load_private(read_private(str(made.gateway_key), PRIVATE_FILE), PRIVATE_FILE)
    else:
        key = Ed25519PrivateKey.generate()
        write_private(made.gateway_key, private_pem(key))
    write_public(made.gateway_public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
