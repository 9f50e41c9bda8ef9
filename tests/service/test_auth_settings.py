"""What a store refuses to start with, and what it says of itself when told to start anyway."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore import settings
from cachestore.config import build
from cachestore.errors import ConfigError
from cachestore.service import listening
from cachestore.service.auth.certificates import Made
from cachestore.service.auth.exposure import Exposure
from cachestore.service.auth.files import read_private, read_public, write_private
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore

Serve = Callable[..., CacheStoreServer]
DIGEST = "sha256:" + "a" * 64
ALICE = {"name": "alice", "role": "writer", "token": DIGEST}
TLS = {"tls_cert": "c", "tls_key": "k"}
MUTUAL = {**TLS, "client_ca": "a"}
SHOWING = {"name": "alice", "role": "reader", "certificate": "alice"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"host": "0.0.0.0"}, "is not loopback"),
        ({"host": "0.0.0.0", **TLS}, "service.identities"),
        ({"host": "0.0.0.0", "identities": [ALICE]}, "service.tls_cert"),
        ({"host": "store.example", "insecure": True}, "no IP address"),
        ({"tls_cert": "c"}, "belong together"),
        ({"tls_key": "k"}, "belong together"),
        ({"client_ca": "c"}, "client_ca needs"),
        ({"gateway_key": "g"}, "role delegate"),
        ({"gateway_key": "g", "identities": [ALICE]}, "role delegate"),
        ({"audience": "a b"}, "audience"),
        ({"identities": "alice"}, r"\[\[service.identities\]\]"),
        ({"identities": [{**ALICE, "rol": "x"}]}, "did you mean 'role'"),
        ({"identities": [{**ALICE, "role": "write"}]}, "did you mean 'writer'"),
        ({"identities": [{**ALICE, "name": "a\nb"}]}, "service.identities.name"),
        ({"identities": [{**ALICE, "namespace": "a b"}]}, "namespace"),
        ({"identities": [{"name": "alice", "role": "writer"}]}, "a token or a certificate"),
        ({"identities": [1]}, r"service\.identities\[0\] must be a table, got int: write \[\[service.identities\]\]"),
        (
            {"identities": [ALICE, {**ALICE, "name": 3}]},
            r"service\.identities\[1\]\.name must be text in quotes, got int",
        ),
        ({"identities": [ALICE, {"name": "bob", "token": DIGEST}]}, r"service\.identities\[1\]\.role is missing"),
        ({"unix_socket": "run/store.sock"}, "service.unix_socket must be an absolute path"),
        ({"identities": [ALICE, ALICE]}, "'alice' is there twice"),
        ({"identities": [ALICE, {**ALICE, "name": "bob"}]}, "the same token"),
        ({"identities": [{**ALICE, "certificate": "alice"}]}, "service.client_ca"),
        ({**MUTUAL, "identities": [SHOWING, {**SHOWING, "name": "bob"}]}, "by the certificate 'alice' alone"),
        ({**MUTUAL, "unix_socket": "/s", "identities": [SHOWING]}, "service.unix_socket speaks no TLS"),
        ({"bulk_port": -2}, "bulk_port"),
        ({"bulk_port": 65536}, "bulk_port"),
        ({"stall": "0s"}, "stall"),
        ({"insecur": True}, "did you mean 'insecure'"),
    ],
)
def test_settings_that_cannot_work(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(ServiceSettings, table, "service")


@pytest.mark.parametrize(
    "identities", [[{**ALICE, "token": "kvs_hush"}], ["kvs_hush"], [{**ALICE, "token": ["kvs_hush"]}]]
)
def test_a_token_in_the_configuration_is_refused_and_not_repeated(identities: list[object]) -> None:
    with pytest.raises(ConfigError, match=r"token") as refused:
        build(ServiceSettings, {"identities": identities}, "service")
    assert "hush" not in str(refused.value)


def test_settings_that_work() -> None:
    built = build(ServiceSettings, {"host": "0.0.0.0", **TLS, "identities": [ALICE]}, "service")
    assert built.identities == (IdentitySettings("alice", "writer", token=DIGEST),)
    assert not built.exposed and built.tls
    assert not ServiceSettings().exposed and not ServiceSettings(unix_socket="/s", host="0.0.0.0").exposed
    # who has a token alone can be known without TLS, and who has one too is told from who has none
    people = [ALICE, {**SHOWING, "name": "bob"}]
    assert build(ServiceSettings, {**MUTUAL, "unix_socket": "/s", "identities": people}, "service").identities
    people = [{**ALICE, "certificate": "alice"}, {**SHOWING, "name": "bob"}]
    assert build(ServiceSettings, {**MUTUAL, "identities": people}, "service").identities
    for half in ({}, TLS, {"identities": built.identities}):
        assert ServiceSettings(host="::", insecure=True, **half).exposed  # type: ignore[arg-type]


@pytest.mark.parametrize("section", ["prefill_worker", "decode_worker"])
def test_workers_listen_where_their_store_may(section: str) -> None:
    """Who may call a worker is what the store's section says."""
    worker = {section: {"host": "0.0.0.0"}}
    with pytest.raises(ConfigError, match=rf"{section}\.host"):
        settings.check({"tiers": [{"name": "cpu", "capacity": "8MiB"}], **worker})
    for service in ({**TLS, "identities": [ALICE]}, {"insecure": True}):
        settings.check({"tiers": [{"name": "cpu", "capacity": "8MiB"}], **worker, "service": service})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(tiered: TieredStore, made: Made, tmp_path: Path, mode: int) -> None:
    key = tmp_path / "open.key"
    key.write_bytes(made.key().read_bytes())
    key.chmod(mode)
    server = CacheStoreServer(tiered, ServiceSettings(port=0, tls_cert=str(made.cert()), tls_key=str(key)))
    with pytest.raises(ConfigError, match=rf"service\.tls_key.*chmod 600 {key}"):
        server.open()


def test_files_that_cannot_be_used_are_refused(tiered: TieredStore, made: Made, stranger: Made, tmp_path: Path) -> None:
    worker: Any = (IdentitySettings("w", "delegate", token=DIGEST),)
    garbage = tmp_path / "garbage"
    garbage.write_text("nothing")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    writable = tmp_path / "writable.pub"
    writable.write_bytes(made.gateway_public.read_bytes())
    writable.chmod(0o666)
    mine = {"tls_cert": str(made.cert()), "tls_key": str(made.key())}
    for fields, said in (
        ({**mine, "tls_key": str(stranger.key())}, "no PEM certificate of the key"),
        ({**mine, "tls_cert": str(garbage)}, "no PEM certificate"),
        ({**mine, "client_ca": str(garbage)}, "service.client_ca holds no PEM"),
        ({**mine, "tls_key": str(tmp_path / "nowhere")}, "cannot read"),
        ({**mine, "tls_key": str(pipe)}, "no file"),
        ({"identities": worker, "gateway_key": str(garbage)}, "service.gateway_key holds no public key"),
        ({"identities": worker, "gateway_key": str(made.cert())}, "service.gateway_key"),
        ({"identities": worker, "gateway_key": str(made.gateway_key)}, "give the public one, gateway.pub"),
        ({"identities": worker, "gateway_key": str(writable)}, "may change"),
    ):
        with pytest.raises(ConfigError, match=said) as refused:
            CacheStoreServer(tiered, ServiceSettings(port=0, **fields)).open()
        with pytest.raises(ConfigError) as foretold:
            listening.check(ServiceSettings(**fields))
        assert str(foretold.value) == str(refused.value)


def test_what_is_written_is_private_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o600 and read_private(str(path), "f") == b"one"
    for there in (path, tmp_path / "link"):
        if there != path:
            there.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigError, match="exists"):
            write_private(there, b"two")
    assert read_public(str(path), "f") == b"one" and not (tmp_path / "elsewhere").exists()


def test_insecure_is_said_again_and_again(
    caplog: pytest.LogCaptureFixture, eventually: Callable[[Callable[[], object]], None]
) -> None:
    exposure = Exposure(ServiceSettings(host="0.0.0.0", insecure=True), every=0.01)
    with caplog.at_level(logging.WARNING):
        exposure.open()
        eventually(lambda: len(caplog.records) >= 3)
        exposure.close()
        said = len(caplog.records)
    assert exposure.exposed and "0.0.0.0" in caplog.text and "service.insecure" in caplog.text
    exposure.close()
    assert len(caplog.records) == said


def test_insecure_serves_whoever_comes(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(host="0.0.0.0", insecure=True)
    assert server.exposure.exposed and "service.insecure" in caplog.text
    with RemoteStore(server.address.replace("0.0.0.0", "127.0.0.1")) as store:
        assert store.stats()


def test_whoever_may_ask_sees_that_a_store_is_insecure(serve: Serve, people: Any) -> None:
    address = serve(host="0.0.0.0", insecure=True, **people.settings).address.replace("0.0.0.0", "127.0.0.1")
    for name in ("reader", "admin"):
        with RemoteStore(address, credentials=people.credentials(name)) as store:
            assert [figure.value for figure in store.stats() if figure.name == "insecure"] == [1]


def test_what_is_not_exposed_does_not_warn(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    assert not serve(insecure=True).exposure.exposed
    assert "insecure" not in caplog.text
