"""TLS: who trusts whom, what a failure is called, and what is not sent without it."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cachestore.errors import CacheStoreError, ConfigError, Unauthenticated, Unavailable, Untrusted
from cachestore.service import preflight
from cachestore.service.auth.certificates import Made
from cachestore.service.auth.credentials import SYSTEM, Credentials
from cachestore.service.auth.tls import ServerTls, client_context, server_context
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from tests.service.tls_sides import mutual, one_way, showing, trusting

Serve = Callable[..., CacheStoreServer]


def test_both_ways_of_trust(serve: Serve, made: Made) -> None:
    for settings, credentials in ((one_way(made), trusting(made)), (mutual(made), showing(made, made))):
        with RemoteStore(serve(**settings).address, credentials=credentials) as store:
            assert store.stats()


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


def test_a_resolver_that_hangs_does_not_make_a_call_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is cut off does for many seconds; the library that carries the calls has one of its own."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    answering, asked = threading.Event(), list[object]()

    def hang(*question: object, **more: object) -> None:
        asked.append(question)
        answering.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(preflight, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with RemoteStore(f"localhost:{port}", credentials=Credentials(ca=SYSTEM)) as store:
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(Unavailable):
                store.stats(timeout=0.5)
            assert time.monotonic() - begun < 0.5 + 1
        # a thread waits for each question
        assert len(asked) == 1
        answering.set()


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
        "dns://8.8.8.8/localhost:7420", "ipv4:127.0.0.1:7420,10.0.0.1:7420", "127.0.0.1:7420@10.0.0.1:7420",
        "localhost",
    ],
)  # fmt: skip
def test_a_token_does_not_leave_the_machine_in_the_clear(address: str) -> None:
    for credentials in (Credentials(token="secret"), Credentials(tenant="secret")):
        with pytest.raises(ConfigError, match="without TLS") as refused:
            credentials.metadata(address)
        assert "secret" not in str(refused.value)
        with pytest.raises(ConfigError) as refused:
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


def test_clients_files_are_checked(made: Made, stranger: Made, tmp_path: Path) -> None:
    """When the channel is made, and not told as an outage with its first call."""
    cert, key = str(made.cert("alice")), str(made.key("alice"))
    garbage, empty = tmp_path / "garbage", tmp_path / "empty"
    for file, content in ((garbage, b"\0\xff no PEM"), (empty, b"")):
        file.write_bytes(content)
        file.chmod(0o600)
    open_key = tmp_path / "open.key"
    open_key.write_bytes(made.key("alice").read_bytes())
    open_key.chmod(0o644)
    for wrong, said in (
        ({"ca": str(made.ca), "cert": cert, "key": str(open_key)}, "chmod 600"),
        ({"ca": str(tmp_path / "nowhere")}, r"\(CACHESTORE_CA\): cannot read .*nowhere"),
        ({"ca": str(garbage)}, r"\(CACHESTORE_CA\): .*garbage holds no PEM certificates"),
        ({"ca": str(empty)}, r"\(CACHESTORE_CA\): .*empty holds no PEM certificates"),
        ({"ca": str(made.ca), "cert": str(tmp_path / "nowhere"), "key": key}, r"\(CACHESTORE_CERT\): cannot read .*no"),
        ({"ca": str(made.ca), "cert": str(garbage), "key": key}, r"\(CACHESTORE_CERT\) .*garbage is no PEM"),
        ({"ca": str(made.ca), "cert": cert, "key": str(tmp_path / "nowhere")}, r"\(CACHESTORE_KEY\): cannot read .*no"),
        ({"ca": str(made.ca), "cert": cert, "key": str(garbage)}, r"\(CACHESTORE_KEY\): .* of the key in .*garbage"),
        ({"ca": str(made.ca), "cert": cert, "key": str(stranger.key("alice"))}, r"\(CACHESTORE_KEY\): .* of the key"),
        ({"token_file": str(tmp_path / "nowhere")}, "cannot read"),
    ):
        with pytest.raises(ConfigError, match=said):
            RemoteStore("127.0.0.1:1", credentials=Credentials(**wrong)).open()
    commented = tmp_path / "commented"
    commented.write_bytes("Žofie's authority\n".encode() + made.ca.read_bytes())
    with RemoteStore("127.0.0.1:1", credentials=Credentials(ca=str(commented))):
        pass
    for fields in ({"cert": "c"}, {"cert": "c", "key": "k"}, {"token": "a", "token_file": "b"}, {"token": "a b"}):
        with pytest.raises(ConfigError, match="credentials"):
            Credentials(**fields)


def test_a_server_without_tls_is_not_taken_for_one_by_a_channel(serve: Serve, made: Made) -> None:
    """Nor does a plain channel get anything out of a port that speaks TLS."""
    server = serve(**one_way(made))
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=2)
