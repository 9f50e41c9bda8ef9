"""Certificates and tokens that change while they are in use."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cachestore.errors import ConfigError, Unauthenticated, Unavailable, Untrusted
from cachestore.metrics import total
from cachestore.service import preflight
from cachestore.service.auth.certificates import Made, make, renew
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tls import client_context
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec
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


@pytest.mark.parametrize("again_seconds", [0.0, 60.0], ids=["looks anew", "remembers"])
@pytest.mark.parametrize("changed", ["certificate", "authority"])
def test_a_client_takes_new_files_up(
    serve: Serve, tmp_path: Path, stranger: Made, monkeypatch: pytest.MonkeyPatch, changed: str, again_seconds: float
) -> None:
    """As it must once the old ones are of no use; until then nothing makes it look.

    To a look of the client's own all is well as soon as the new ones are there.
    """
    monkeypatch.setattr(preflight, "AGAIN_SECONDS", again_seconds)
    made = make(tmp_path / "own", NAMES, ["alice"])
    ours = [made.cert("alice"), made.key("alice")] if changed == "certificate" else [tmp_path / "ca.crt"]
    theirs = [stranger.folder / path.name for path in ours]
    right = [(made.folder / path.name).read_bytes() for path in ours]
    for path, wrong in zip(ours, theirs, strict=True):
        path.touch(mode=0o600)
        path.write_bytes(wrong.read_bytes())
    credentials = showing(made, made)
    if changed == "authority":
        credentials = replace(credentials, ca=str(ours[0]))
    with RemoteStore(serve(**mutual(made)).address, credentials=credentials) as store:
        for _ in range(2):
            with pytest.raises(Untrusted):
                store.stats()
        for path, content in zip(ours, right, strict=True):
            path.write_bytes(content)
        with suppress(Unavailable):
            store.stats()
        assert store.stats()


def test_the_bulk_path_takes_new_files_up_with_the_calls(
    serve: Serve, tmp_path: Path, made: Made, stranger: Made
) -> None:
    """A ticket is good only beside the certificate that the call showed: both have to change together."""
    names = ("ca.crt", "alice.crt", "alice.key")
    ours = [tmp_path / name for name in names]

    def take(files: Made) -> None:
        for path, theirs in zip(ours, (files.ca, files.cert("alice"), files.key("alice")), strict=True):
            path.touch(mode=0o600)
            path.write_bytes(theirs.read_bytes())

    take(made)
    known = (IdentitySettings("alice", "writer", certificate="alice"),)
    server = serve(**mutual(made), identities=known)
    credentials = Credentials(*map(str, ours))
    chain, blocks = random_prompt(small_spec(), 2)
    with RemoteStore(server.address, credentials=credentials, transports=("bulk",)) as store:
        put_blocks(store, chain.fingerprint, blocks)
        with store.read(chain, timeout=5) as reading:
            assert len(list(reading)) == 2
        # new files while the old ones still do
        take(stranger)
        with store.read(chain, timeout=5) as reading:
            assert len(list(reading)) == 2
        port = int(server.address.rpartition(":")[2])
        server.close(0)
        server = serve(**mutual(stranger), identities=known, port=port)
        for _ in range(2):
            with suppress(Unavailable):
                store.stats()
        with store.read(chain, timeout=5) as reading:
            assert len(list(reading)) == 2
        assert total(server.figures(), "bulk_refused") == 0


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
