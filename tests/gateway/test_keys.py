"""API keys: who asks, from a file of digests that is read again when it changes."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cachestore.errors import CacheStoreError, ConfigError
from cachestore.service.auth.tokens import digest_of, verify
from gateway.errors import ApiError
from gateway.keys import ANYBODY, Asker, Keys
from gateway.settings import GatewaySettings

SIGNING = Ed25519PrivateKey.generate()


def entry(name: str, namespace: str = "default", key: str = "") -> str:
    digest = f"sha256:{digest_of(key or f'key of {name}').hex()}"
    return f'[[keys]]\nname = "{name}"\nkey = "{digest}"\nnamespace = "{namespace}"\n'


def write(path: Path, text: str, mode: int = 0o600) -> str:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.chmod(mode)
    os.replace(draft, path)
    return str(path)


@pytest.fixture
def signing_key(tmp_path: Path) -> str:
    pem = SIGNING.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return write(tmp_path / "gateway.key", pem.decode())


def opened(**settings: str) -> Keys:
    keys = Keys(GatewaySettings(**settings))  # type: ignore[arg-type]
    keys.open()
    return keys


def refused(keys: Keys, header: str) -> str:
    with pytest.raises(ApiError) as raised:
        keys.asker(header)
    assert raised.value.status == 401
    assert raised.value.body["error"]["code"] == "invalid_api_key"
    return str(raised.value)


def test_without_a_file_everybody_is_served() -> None:
    keys = opened()
    assert keys.asker("") is keys.asker("Bearer whatever") is ANYBODY
    assert keys.token(ANYBODY) == ""


def test_each_key_has_its_namespace(tmp_path: Path, signing_key: str) -> None:
    path = write(tmp_path / "keys.toml", entry("alice", "acme") + entry("bob", "umbrella"))
    keys = opened(keys=path, signing_key=signing_key)
    assert keys.asker("Bearer key of alice") == keys.asker("bearer key of alice ") == Asker("alice", "acme")
    assert keys.asker("Bearer key of bob") == Asker("bob", "umbrella")
    for header in ("", "Bearer ", "Bearer key of carol", "Basic key of alice", "key of alice", "Bearer \u00e9\u0000"):
        assert "key of" not in refused(keys, header)
    tenant = verify(keys.token(Asker("bob", "umbrella")), SIGNING.public_key(), "cachestore")
    assert (tenant.namespace, tenant.role.name) == ("umbrella", "writer")
    assert tenant.expires - tenant.issued > GatewaySettings().request_timeout


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.toml", entry("alice"))
    keys = opened(keys=path)
    refused(keys, "Bearer key of bob")
    write(tmp_path / "keys.toml", entry("bob"))
    assert keys.asker("Bearer key of bob").name == "bob"
    refused(keys, "Bearer key of alice")


@pytest.mark.parametrize(
    ("text", "mode"), [("[[keys]", 0o600), (entry("alice"), 0o644), ('[[keys]]\nnam = "x"\n', 0o600)]
)
def test_a_file_that_cannot_be_used_locks_nobody_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, mode: int
) -> None:
    path = write(tmp_path / "keys.toml", entry("bob"))
    keys = opened(keys=path)
    write(tmp_path / "keys.toml", text, mode)
    assert keys.asker("Bearer key of bob").name == "bob"
    assert "stay in use" in caplog.text
    os.unlink(path)
    assert keys.asker("Bearer key of bob").name == "bob"
    with pytest.raises(CacheStoreError):
        write(tmp_path / "keys.toml", text, mode)
        opened(keys=path)


def test_namespaces_need_a_signing_key(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.toml", entry("alice", "acme"))
    with pytest.raises(ConfigError, match=r"gateway\.signing_key"):
        opened(keys=path)


def test_a_key_itself_is_never_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.toml", '[[keys]]\nname = "alice"\nkey = "kvs_secret"\n')
    with pytest.raises(ConfigError) as raised:
        opened(keys=path)
    assert "alice" in str(raised.value) and "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"host": "0.0.0.0"}, "gateway.host"),
        ({"host": "example.org"}, "gateway.host"),
        ({"host": "0.0.0.0", "insecure": True}, "gateway.keys"),
        ({"host": "0.0.0.0", "keys": "keys.toml"}, "gateway.insecure"),
        ({"tls_cert": "server.crt"}, "gateway.tls_key"),
        ({"tls_key": "server.key"}, "gateway.tls_cert"),
        ({"stall": 0.0}, "gateway.stall"),
        ({"port": 70000}, "gateway.port"),
        ({"max_waiting": 0}, "gateway.max_waiting"),
        ({"request_timeout": 0.0}, "gateway.request_timeout"),
        ({"request_timeout": 4000.0}, "gateway.request_timeout"),
        ({"body_limit": 10}, "gateway.body_limit"),
        ({"refresh": 0.0}, "gateway.refresh"),
        ({"routing": {"name": "randomly"}}, "routing.name"),
        ({"routing": {"name": "prefix_load", "heat": 3}}, "gateway.routing.heat"),
        ({"routing": {"name": "prefix_load", "hot": 0.5}}, "gateway.routing.hot"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field.replace(".", r"\.")):
        GatewaySettings(**settings)  # type: ignore[arg-type]
