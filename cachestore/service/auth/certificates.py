"""A certificate authority for development and tests: one server, some clients, and a gateway's key, as files.

What stands before real users should have certificates from whoever issues them there; the store only needs files.
"""

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cachestore.errors import ConfigError, InvalidArgument
from cachestore.service.auth.files import read_private, read_public, write_private, write_public

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUTHORITY_DAYS = 3650
EARLY = datetime.timedelta(minutes=5)
"""Certificates hold a little before they are made: clocks differ."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")


class Made(NamedTuple):
    """The files of an authority's directory."""

    folder: Path
    clients: tuple[str, ...]

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def cert(self, name: str = "server") -> Path:
        """The certificate of the server or of a client."""
        return self.folder / f"{name}.crt"

    def key(self, name: str = "server") -> Path:
        """The key beside it."""
        return self.folder / f"{name}.key"

    @property
    def gateway_key(self) -> Path:
        return self.folder / "gateway.key"

    @property
    def gateway_public(self) -> Path:
        return self.folder / "gateway.pub"


def make(folder: Path, names: Sequence[str], clients: Sequence[str], *, days: float = 90, renew: bool = False) -> Made:
    """Makes in `folder` what is not there yet: authority, server certificate for `names` (host names and addresses),
    one certificate for each of `clients`, and the key a gateway signs tenants' tokens with.

    With `renew` the server's and these clients' certificates and keys are replaced, by the same authority. ConfigError
    for files that are in the way, InvalidArgument for names that cannot be in a certificate.
    """
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "certificates need the package 'cryptography'; install it with: pip install 'kv-cachestore[sealing]'"
        ) from error
    if not days > 0:
        raise InvalidArgument(f"days must be more than 0, got {days}")
    for name in clients:
        if not _NAME.fullmatch(name) or name in ("ca", "server", "gateway"):
            raise InvalidArgument(
                f"a client's name is letters, digits, dots and dashes, and none of ours, got {name!r}"
            )
    made = Made(folder, tuple(clients))
    leaves = {"server": list(names), **{name: [name] for name in clients}}
    if not renew:
        for name in leaves:
            for path in (made.cert(name), made.key(name)):
                if path.exists():
                    raise ConfigError(f"{path} exists; --renew replaces certificates")
    alternatives = {name: [_alternative(one) for one in known] for name, known in leaves.items()}
    _directory(folder)
    if not made.ca.exists():
        _authority(made)
    if not made.gateway_key.exists():
        _gateway(made)
    for name in leaves:
        _leaf(made, name, alternatives[name], days)
    return made


def _directory(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {folder}: {error.strerror}") from error


def _alternative(name: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"{name!r} is neither a host name nor an address") from None
        return x509.DNSName(name)


def _authority(made: Made) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _common("cachestore development authority")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = _builder(name, name, key.public_key(), AUTHORITY_DAYS).add_extension(usage, critical=True)
    signed = _sign(builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True), key, key)
    write_private(made.folder / "ca.key", _private_pem(key))
    write_public(made.ca, signed)


def _leaf(made: Made, name: str, alternatives: "Sequence[x509.GeneralName]", days: float) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer_key = load_pem_private_key(read_private(str(made.folder / "ca.key"), "ca.key"), None)
    issuer = x509.load_pem_x509_certificate(read_public(str(made.ca), "ca.crt"))
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    # a server's certificate must not do for a client, nor the other way round
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if name == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_common(name), issuer.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    )
    signed = _sign(builder, key, issuer_key)
    # the key first: a certificate without its key is of no use, and servers wait for the pair to fit
    for path, content, write in (
        (made.key(name), _private_pem(key), write_private),
        (made.cert(name), signed, write_public),
    ):
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        write(draft, content)
        draft.replace(path)


def _gateway(made: Made) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = Ed25519PrivateKey.generate()
    write_private(made.gateway_key, _private_pem(key))
    write_public(made.gateway_public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _common(name: str) -> "x509.Name":
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _builder(
    subject: "x509.Name", issuer: "x509.Name", key: "ec.EllipticCurvePublicKey", days: float
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), now - EARLY, ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )  # fmt: skip


def _sign(
    builder: "x509.CertificateBuilder", key: "ec.EllipticCurvePrivateKey", issuer: "ec.EllipticCurvePrivateKey"
) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    return builder.add_extension(signer, critical=False).sign(issuer, SHA256()).public_bytes(Encoding.PEM)


def _usage(**wanted: bool) -> "x509.KeyUsage":
    from cryptography import x509

    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


def _private_pem(key: "ec.EllipticCurvePrivateKey | Ed25519PrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
