"""Who a certificate says its bearer is, and until when."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cachestore.errors import ConfigError, Unauthenticated
from cachestore.service.auth.certificates import Made, make
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.issuing import Pair, issuer_of, new_authority, private_pem
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tls import ServerTls
from cachestore.service.auth.tokens import new_token
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from tests.service.tls_sides import NAMES, mutual, one_way, showing, trusting

Serve = Callable[..., CacheStoreServer]


def two_named(made: Made) -> tuple[Path, Path]:
    """A certificate of `made` for mallory whose common name is alice."""
    authority = serialization.load_pem_private_key((made.folder / "ca.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate(made.ca.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(
            issuer.subject, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")]), key.public_key(),
            x509.random_serial_number(), now - datetime.timedelta(days=1), now + datetime.timedelta(days=1),
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mallory")]), critical=False)
        .sign(authority, hashes.SHA256())  # type: ignore[arg-type]
    )  # fmt: skip
    files = made.folder / "odd.crt", made.folder / "odd.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].touch(mode=0o600)
    files[1].write_bytes(private_pem(key))
    return files


def test_a_certificate_names_its_caller(serve: Serve, made: Made) -> None:
    alice = IdentitySettings("alice", "reader", "a", certificate="alice")
    with RemoteStore(serve(**mutual(made), identities=(alice,)).address, credentials=showing(made, made)) as store:
        assert store.stats()
    other = IdentitySettings("bob", "reader", "a", certificate="bob")
    with (
        RemoteStore(serve(**mutual(made), identities=(other,)).address, credentials=showing(made, made)) as store,
        pytest.raises(Unauthenticated),
    ):
        store.stats()


def test_a_common_name_beside_other_names_says_nothing(serve: Serve, tmp_path: Path) -> None:
    """Else whoever may choose the one name of a certificate could choose to be somebody else."""
    made = make(tmp_path / "own", NAMES, ["mallory"])
    files = two_named(made)
    with RemoteStore(
        serve(**mutual(made), identities=(IdentitySettings("alice", "admin", certificate="alice"),)).address,
        credentials=trusting(made, cert=str(files[0]), key=str(files[1])),
    ) as store, pytest.raises(Unauthenticated):  # fmt: skip
        store.stats()


def test_an_identity_may_need_token_and_certificate(made: Any, serve: Serve, people: Any) -> None:
    (alice,) = (each for each in people.settings["identities"] if each.name == "alice")
    both = type(alice)(alice.name, alice.role, alice.namespace, alice.token, "alice")
    server = serve(
        identities=(both,), tls_cert=str(made.cert()), tls_key=str(made.key()), client_ca=str(made.ca)
    )  # fmt: skip
    shown = {"ca": str(made.ca), "cert": str(made.cert("alice")), "key": str(made.key("alice"))}
    with RemoteStore(server.address, credentials=people.credentials("alice", **shown)) as store:
        assert store.stats()
    for wrong in (Credentials(**shown), Credentials(**shown, token=new_token())):
        with RemoteStore(server.address, credentials=wrong) as store, pytest.raises(Unauthenticated):
            store.stats()


def put_expired(made: Made) -> None:
    """Gives the server a certificate that was over three minutes ago."""
    authority = Pair(made.ca.read_bytes(), made.ca_key.read_bytes())
    pair = issuer_of(authority, "ca").issue("server", NAMES, -0.002, server=True)
    made.key().write_bytes(pair.key)
    made.cert().write_bytes(pair.cert)


def test_a_certificate_that_is_over_is_not_begun_with(serve: Serve, tmp_path: Path) -> None:
    made = make(tmp_path / "own", NAMES, ["alice"])
    put_expired(made)
    with pytest.raises(ConfigError, match=r"service\.tls_cert: clients would refuse .* expired; renew it"):
        serve(**one_way(made))


def test_a_certificate_that_is_over_does_not_replace_one_that_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(tmp_path / "own", NAMES, [])
    tls = ServerTls(ServiceSettings(**mutual(made)))
    before = tls.context()
    put_expired(made)
    assert tls.context() is before and tls.context() is before
    (said,) = [record.getMessage() for record in caplog.records]
    assert "the old ones stay" in said and "expired" in said


def test_nothing_is_signed_for_longer_than_its_authority_holds() -> None:
    month = issuer_of(new_authority(), "ca").issue("month", ["month"], 30, server=False)
    signer = issuer_of(month, "month")
    with pytest.raises(ConfigError, match="--days: the authority ends in 29 days"):
        signer.issue("late", ["late"], 31, server=False)
    until = x509.load_pem_x509_certificate(signer.issue("early", ["early"], 29, server=False).cert)
    assert until.not_valid_after_utc < signer.cert.not_valid_after_utc


def test_a_clients_certificate_does_not_do_for_a_server(serve: Serve, made: Made) -> None:
    with pytest.raises(ConfigError, match="unsuitable certificate purpose"):
        serve(tls_cert=str(made.cert("alice")), tls_key=str(made.key("alice")))


def test_a_certificate_that_is_not_good_yet_is_waited_for(serve: Serve, made: Made, tmp_path: Path) -> None:
    """Clocks differ: it may be good where the client is."""
    authority = serialization.load_pem_private_key(made.ca_key.read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "soon")])
    begins, ends = now + datetime.timedelta(hours=1), now + datetime.timedelta(hours=2)
    soon = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begins, ends)
    cert, private = tmp_path / "soon.crt", tmp_path / "soon.key"
    signed = soon.sign(authority, hashes.SHA256())  # type: ignore[arg-type]
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.touch(mode=0o600)
    private.write_bytes(private_pem(key))
    assert serve(tls_cert=str(cert), tls_key=str(private)).address
