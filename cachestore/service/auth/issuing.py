"""X.509 for development: an authority, what it signs, and the names in that (RFC 5280)."""

import datetime
import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cachestore.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUTHORITY_DAYS = 3650
EARLY = datetime.timedelta(minutes=5)
"""Certificates hold a little before they are made: clocks differ."""


class Pair(NamedTuple):
    """A certificate and its private key, in PEM form."""

    cert: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(...)"


class Issuer(NamedTuple):
    """An authority that signs."""

    cert: "x509.Certificate"
    key: "ec.EllipticCurvePrivateKey"

    def issue(self, name: str, alternatives: Sequence[str], days: float, *, server: bool) -> Pair:
        """A certificate and a new key for `name`, known under `alternatives`, host names and addresses.

        ConfigError if the authority ends before the certificate would.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        now = datetime.datetime.now(datetime.UTC)
        ends, last = now + datetime.timedelta(days=days), self.cert.not_valid_after_utc
        if ends > last + EARLY:
            left = max((last - now).days, 0)
            raise ConfigError(
                f"--days: the authority ends in {left} days, and what it signs with it; give fewer, or make another "
                "authority in another folder"
            )
        # a server's certificate must not do for a client, nor the other way round
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_common(name), self.cert.subject, key.public_key(), now, min(ends, last))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(list(map(_alternative, alternatives))), critical=False)
        )
        return Pair(_signed(builder, self.key), private_pem(key))

    def issued(self, cert: "x509.Certificate") -> bool:
        """Whether this authority signed the certificate."""
        from cryptography.exceptions import InvalidSignature

        try:
            cert.verify_directly_issued_by(self.cert)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True


def new_authority() -> Pair:
    """A new authority, which signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name, now = _common("cachestore development authority"), datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=AUTHORITY_DAYS)
    builder = (
        _builder(name, name, key.public_key(), now, ends)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return Pair(_signed(builder, key), private_pem(key))


def issuer_of(pair: Pair, field: str) -> Issuer:
    """The authority whose files hold `pair`; ConfigError names `field` if they are not those of one of ours."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    cert = read_certificate(pair.cert, field)
    try:
        key = load_pem_private_key(pair.key, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise ConfigError(f"{field} are no authority that `cachestore certs` made; use another folder")
    return Issuer(cert, key)


def read_certificate(content: bytes, field: str) -> "x509.Certificate":
    """The first certificate of a PEM file; ConfigError names `field`."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        raise ConfigError(f"{field} holds no certificate in PEM form; move it away") from None


def names_in(cert: "x509.Certificate") -> list[str]:
    """The host names and addresses that the certificate bears, in its order."""
    from cryptography import x509

    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def private_pem(key: "ec.EllipticCurvePrivateKey | Ed25519PrivateKey") -> bytes:
    """The key in PEM form, without a password."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _alternative(name: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _common(name: str) -> "x509.Name":
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _builder(
    subject: "x509.Name",
    issuer: "x509.Name",
    key: "ec.EllipticCurvePublicKey",
    now: datetime.datetime,
    ends: datetime.datetime,
) -> "x509.CertificateBuilder":
    from cryptography import x509

    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), now - EARLY, ends)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _signed(builder: "x509.CertificateBuilder", issuer: "ec.EllipticCurvePrivateKey") -> bytes:
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
