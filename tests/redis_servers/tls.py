"""Certificates, and Redis servers that speak TLS alone."""

import datetime
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.redis_servers.server import RedisServer


@dataclass
class Certificates:
    """Certificates in `folder`: `sign` makes one of an authority that nobody else trusts."""

    folder: Path
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.authority, _ = self.sign("authority", authority=True)

    def sign(
        self, name: str, address: str = "127.0.0.1", days: float = 1, authority: bool = False
    ) -> tuple[Path, Path]:
        """The files of a certificate for `address`, over after `days`, and of its key."""
        key = self._key if authority else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Makes certificates."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def redis_tls(redis_server: Callable[..., RedisServer], certificates: Certificates) -> Callable[..., RedisServer]:
    """Starts servers that speak TLS and nothing else, and show a certificate for 127.0.0.1 unless told otherwise."""
    program = which("redis-server")
    if program is None:
        pytest.skip("the wheel's server has no TLS: install redis-server")

    def start(files: tuple[Path, Path] | None = None, clients: bool = False, **options: object) -> RedisServer:
        shown, key = files or certificates.sign("server")
        settings = ["--tls-cert-file", str(shown), "--tls-key-file", str(key)]
        settings += [
            "--tls-ca-cert-file",
            str(certificates.authority),
            "--tls-auth-clients",
            "yes" if clients else "no",
        ]
        mine = certificates.sign("client")
        return redis_server(tcp=True, tls=mine, extra=settings, program=program, **options)

    return start
