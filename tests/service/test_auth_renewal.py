"""Certificates and tokens that change while they are in use."""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cachestore.errors import ConfigError, Unauthenticated, Untrusted
from cachestore.service.auth.certificates import Made, make, renew
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tls import client_context
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from tests.service.tls_sides import NAMES, mutual, one_way, showing, trusting

Serve = Callable[..., CacheStoreServer]


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
            renew(made.folder, NAMES, [])
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
    renew(made.folder, NAMES, [])
    assert serial(server.address, trusting(made)) != first


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
