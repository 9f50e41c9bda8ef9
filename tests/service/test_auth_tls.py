"""TLS: who trusts whom, what a failure is called, and certificates that change under load."""

import datetime
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cachestore.errors import CacheStoreError, ConfigError, Unauthenticated, Unavailable, Untrusted
from cachestore.service.auth.certificates import Made, make
from cachestore.service.auth.credentials import SYSTEM, Credentials
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tls import ServerTls, client_context, server_context
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings

Serve = Callable[..., CacheStoreServer]
NAMES = ("localhost", "127.0.0.1")


def one_way(made: Made) -> dict[str, str]:
    return {"tls_cert": str(made.cert()), "tls_key": str(made.key())}


def mutual(made: Made) -> dict[str, str]:
    return {**one_way(made), "client_ca": str(made.ca)}


def trusting(made: Made, **more: str) -> Credentials:
    return Credentials(ca=str(made.ca), **more)


def showing(made: Made, shown: Made, name: str = "alice") -> Credentials:
    return trusting(made, cert=str(shown.cert(name)), key=str(shown.key(name)))


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
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def test_both_ways_of_trust(serve: Serve, made: Made) -> None:
    for settings, credentials in ((one_way(made), trusting(made)), (mutual(made), showing(made, made))):
        with RemoteStore(serve(**settings).address, credentials=credentials) as store:
            assert store.stats()


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


@pytest.mark.parametrize(
    ("settings", "credentials", "said"),
    [
        pytest.param(one_way, lambda made, stranger: Credentials(), "it speaks TLS", id="plain client"),
        pytest.param(lambda made: {}, lambda made, stranger: trusting(made), "it speaks no TLS", id="plain server"),
        pytest.param(one_way, lambda made, stranger: trusting(stranger), "not vouched for", id="wrong authority"),
        pytest.param(one_way, lambda made, stranger: Credentials(ca=SYSTEM), "not vouched for", id="system's"),
        pytest.param(
            one_way,
            lambda made, stranger: trusting(made, server_name="other.example"),
            "other.example",
            id="wrong name",
        ),
        pytest.param(mutual, lambda made, stranger: trusting(made), "asks for a client's certificate", id="none shown"),
        pytest.param(
            mutual, lambda made, stranger: showing(made, stranger), "does not accept this client", id="stranger's"
        ),
        pytest.param(
            mutual, lambda made, stranger: showing(made, made, "server"), "does not accept this client", id="server's"
        ),
    ],
)
def test_a_failure_says_what_it_is(
    serve: Serve, made: Made, stranger: Made, settings: Any, credentials: Any, said: str
) -> None:
    """Eight ways of gRPC's one word UNAVAILABLE; none of them is worth trying again."""
    server = serve(**settings(made))
    address = server.address
    with RemoteStore(address, credentials=credentials(made, stranger)) as store:
        for _ in range(2):
            with pytest.raises(Untrusted, match=said) as refused:
                store.stats(timeout=5)
            assert not refused.value.retryable
    # a store that is away is still a store that is away
    server.close()
    with (
        RemoteStore(address, credentials=credentials(made, stranger)) as store,
        pytest.raises(Unavailable, match="cachestore serve") as away,
    ):
        store.stats(timeout=5)
    assert type(away.value) is Unavailable


def test_a_peer_that_hangs_does_not_make_a_call_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with RemoteStore(address, credentials=Credentials(ca=SYSTEM)) as store:
            begun = time.monotonic()
            with pytest.raises(CacheStoreError):
                store.stats(timeout=0.3)
            assert time.monotonic() - begun < 0.3 + 1


@pytest.mark.parametrize("credentials", [Credentials(ca=SYSTEM), Credentials()], ids=["tls", "plain"])
def test_a_peer_that_hangs_up_is_an_outage(credentials: Credentials) -> None:
    """Nothing is wrong with anybody's certificate there, and it may be better in a moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with (
            RemoteStore(f"127.0.0.1:{listener.getsockname()[1]}", credentials=credentials) as store,
            pytest.raises(Unavailable) as away,
        ):
            store.stats(timeout=2)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert type(away.value) is Unavailable and away.value.retryable


def test_off_loopback_with_tls_and_tokens(serve: Serve, made: Made, people: Any) -> None:
    server = serve(host="0.0.0.0", **one_way(made), **people.settings)
    assert not server.exposure.exposed
    address = server.address.replace("0.0.0.0", "127.0.0.1")
    with RemoteStore(address, credentials=people.credentials("alice", ca=str(made.ca))) as store:
        assert store.stats()
    with RemoteStore(address, credentials=trusting(made)) as store, pytest.raises(Unauthenticated):
        store.stats()


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3:7420", "store.example:7420", "[2001:db8::1]:7420", "0.0.0.0:7420", "localhost.example:7420",
        "dns:///127.0.0.1:7420", "ipv4:127.0.0.1:7420,10.0.0.1:7420", "127.0.0.1:7420@10.0.0.1:7420", "localhost",
    ],
)  # fmt: skip
def test_a_token_does_not_leave_the_machine_in_the_clear(address: str) -> None:
    for credentials in (Credentials(token="secret"), Credentials(tenant="secret")):
        with pytest.raises(ConfigError, match="without TLS") as refused:
            RemoteStore(address, credentials=credentials).open()
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/run/s"])
def test_a_token_may_go_where_nobody_can_listen(address: str) -> None:
    assert Credentials(token="secret").metadata(address) == (("authorization", "Bearer secret"),)


def test_a_token_goes_through_tls_or_nowhere(made: Made) -> None:
    """A store that answers without TLS where it should speak it gets no token: there is no way back to plain text."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.settimeout(0.2)
                    try:
                        # the first words of an HTTP/2 server
                        peer.sendall(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
                        while data := peer.recv(1 << 16):
                            heard.append(data)
                    except OSError:
                        continue

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        credentials = trusting(made, token="kvs_hush_hush")
        with RemoteStore(f"127.0.0.1:{listener.getsockname()[1]}", credentials=credentials) as store:
            with pytest.raises(CacheStoreError):
                store.stats(timeout=1)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert heard and b"kvs_hush_hush" not in b"".join(heard)


def serial(address: str, credentials: Credentials) -> int:
    """The serial number of the certificate that a server shows."""
    host, _, port = address.rpartition(":")
    context = client_context(credentials)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), 5) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"").serial_number


def test_certificates_change_under_load(serve: Serve, tmp_path: Path) -> None:
    made = make(tmp_path / "own", NAMES, ["alice"])
    server = serve(**mutual(made), identities=(IdentitySettings("alice", "writer", certificate="alice"),))
    over = threading.Event()
    calls, failed = [0], list[BaseException]()

    def load() -> None:
        while not over.is_set():
            try:
                # every client shakes hands anew
                with RemoteStore(server.address, credentials=showing(made, made)) as store:
                    store.stats(timeout=10)
                calls[0] += 1
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=load, daemon=True) for _ in range(2)]
    with RemoteStore(server.address, credentials=showing(made, made)) as lasting:
        for thread in threads:
            thread.start()
        seen = []
        for _ in range(4):
            make(made.folder, NAMES, [], renew=True)
            assert lasting.stats()
            seen.append(
                serial(server.address, made)
                if not server._settings.client_ca
                else serial(server.address, trusting(made))
            )
            before = calls[0]
            until = time.monotonic() + 10
            while calls[0] < before + 4 and time.monotonic() < until:
                time.sleep(0.01)
            assert calls[0] >= before + 4
        over.set()
        for thread in threads:
            thread.join(20)
    assert failed == [] and len(set(seen)) == 4
    assert seen[-1] == x509.load_pem_x509_certificate(made.cert().read_bytes()).serial_number


def test_what_cannot_be_used_leaves_what_was_there(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Halfway through a change, and after one that would let others read the key."""
    made = make(tmp_path / "own", NAMES, ["alice"])
    server = serve(**one_way(made))
    first = serial(server.address, trusting(made))
    key = made.key().read_bytes()
    for break_it, mend in (
        (lambda: made.cert().write_bytes(made.cert("alice").read_bytes()), None),
        (lambda: made.cert().write_bytes(b"nothing"), None),
        (lambda: made.cert().unlink(), None),
        (lambda: os.chmod(made.key(), 0o644), lambda: os.chmod(made.key(), 0o600)),
    ):
        caplog.clear()
        break_it()
        for _ in range(3):
            with RemoteStore(server.address, credentials=trusting(made)) as store:
                assert store.stats()
        assert serial(server.address, trusting(made)) == first
        said = [record.getMessage() for record in caplog.records if record.name == "cachestore.service.auth.tls"]
        assert len(said) == 1 and "the old ones stay" in said[0]
        if mend is not None:
            mend()
    assert key not in "".join(caplog.text).encode()
    make(made.folder, NAMES, [], renew=True)
    assert serial(server.address, trusting(made)) != first


def test_plain_sockets_get_the_same_trust(made: Made, stranger: Made) -> None:
    tls = ServerTls(ServiceSettings(port=0, **mutual(made)))
    tls.open()

    def shake(credentials: Credentials) -> bytes:
        ours, theirs = socket.socketpair()
        done: list[object] = []

        def serve() -> None:
            try:
                with tls.context().wrap_socket(ours, server_side=True) as end:
                    end.sendall(b"hello")
                    done.append(end.getpeercert())
            except OSError as error:
                done.append(error)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            with client_context(credentials).wrap_socket(theirs, server_hostname="127.0.0.1") as end:
                return end.recv(5)
        finally:
            theirs.close()
            thread.join(5)
            ours.close()

    assert shake(showing(made, made)) == b"hello"
    for wrong in (trusting(stranger), showing(made, stranger), trusting(made), showing(made, made, "server")):
        with pytest.raises(OSError):
            # an end without a word is what is left of a refusal that came too late to be heard
            if shake(wrong) != b"hello":
                raise ConnectionError
    assert tls.context() is tls.context()
    assert server_context(ServiceSettings(**one_way(made))).minimum_version is ssl.TLSVersion.TLSv1_2


def test_old_protocols_are_refused(serve: Serve, made: Made) -> None:
    host, _, port = serve(**one_way(made)).address.rpartition(":")
    context = client_context(trusting(made))
    context.set_alpn_protocols(["h2"])
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), 5) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname=host)


def test_a_client_takes_its_new_certificate_up(serve: Serve, tmp_path: Path, stranger: Made) -> None:
    """As it must once the old one is over; until then nothing makes it look."""
    made = make(tmp_path / "own", NAMES, ["alice"])
    kept = {path: path.read_bytes() for path in (made.cert("alice"), made.key("alice"))}
    for path in kept:
        path.write_bytes((stranger.folder / path.name).read_bytes())
    with RemoteStore(serve(**mutual(made)).address, credentials=showing(made, made)) as store:
        for _ in range(2):
            with pytest.raises(Untrusted):
                store.stats()
        for path, content in kept.items():
            path.write_bytes(content)
        with pytest.raises(Untrusted):
            store.stats()
        assert store.stats()


def test_a_token_file_may_change(serve: Serve, people: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(people.tokens["alice"] + "\n")
    with RemoteStore(serve(**people.settings).address, credentials=Credentials(token_file=str(file))) as store:
        assert store.stats()
        file.write_text("kvs_wrong")
        with pytest.raises(Unauthenticated):
            store.stats()
        file.write_text(people.tokens["bob"])
        assert store.stats()
        os.chmod(file, 0o640)
        with pytest.raises(ConfigError, match="chmod 600"):
            store.stats()


def test_the_environment_is_shown_unless_told_otherwise(
    serve: Serve, people: Any, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve(**people.settings, **one_way(made)).address
    monkeypatch.setenv("CACHESTORE_TOKEN", people.tokens["alice"])
    monkeypatch.setenv("CACHESTORE_CA", str(made.ca))
    with RemoteStore(address) as store:
        assert store.stats()
    with RemoteStore(address, credentials=trusting(made)) as store, pytest.raises(Unauthenticated):
        store.stats()


def test_clients_files_are_checked(made: Made, tmp_path: Path) -> None:
    open_key = tmp_path / "open.key"
    open_key.write_bytes(made.key("alice").read_bytes())
    open_key.chmod(0o644)
    for wrong, said in (
        ({"ca": str(made.ca), "cert": str(made.cert("alice")), "key": str(open_key)}, "chmod 600"),
        ({"ca": str(tmp_path / "nowhere")}, "cannot read"),
        ({"token_file": str(tmp_path / "nowhere")}, "cannot read"),
    ):
        with pytest.raises(ConfigError, match=said):
            RemoteStore("127.0.0.1:1", credentials=Credentials(**wrong)).open()
    for fields in ({"cert": "c"}, {"cert": "c", "key": "k"}, {"token": "a", "token_file": "b"}, {"token": "a b"}):
        with pytest.raises(ConfigError, match="credentials"):
            Credentials(**fields)


def test_a_server_without_tls_is_not_taken_for_one_by_a_channel(serve: Serve, made: Made) -> None:
    """Nor does a plain channel get anything out of a port that speaks TLS."""
    server = serve(**one_way(made))
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=2)
