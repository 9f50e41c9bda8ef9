"""Whom a worker asks the store for: each tenant over a connection of its own, with the token that holds longest."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachestore.errors import ConfigError, Unauthenticated
from cachestore.service.auth.certificates import make
from cachestore.service.auth.identity import LOCAL, Identity, Role
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tokens import digest_of, load_private, new_token, sign
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from prefill_worker import stores as module
from prefill_worker.stores import Stores

Make = Callable[..., Identity]


@pytest.fixture
def token() -> str:
    return new_token()


@pytest.fixture
def tenant(tmp_path: Path) -> Make:
    """Callers as a worker's guard knows them."""
    make(tmp_path / "keys", ["localhost"], [])
    key = load_private((tmp_path / "keys" / "gateway.key").read_bytes(), "key")

    def made(namespace: str, ttl: float = 60.0, role: str = "writer") -> Identity:
        signed = sign(key, namespace, ttl=ttl, role=role)
        return Identity("gateway", namespace, Role[role], time.time() + ttl, signed)

    return made


@pytest.fixture
def server(
    make_store: Callable[..., TieredStore], tenant: Make, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CacheStoreServer]:
    """A store that takes this process for a delegate."""
    monkeypatch.setenv("CACHESTORE_TOKEN", token)
    delegate = IdentitySettings("worker", "delegate", token=f"sha256:{digest_of(token).hex()}")
    key = str(tmp_path / "keys" / "gateway.pub")
    server = CacheStoreServer(make_store(), ServiceSettings(port=0, identities=(delegate,), gateway_key=key))
    server.open()
    yield server
    server.close(0)


@pytest.fixture
def stores(server: CacheStoreServer) -> Iterator[Stores]:
    with RemoteStore(server.address) as own:
        stores = Stores(own, server.address)
        yield stores
        stores.close()


def test_a_namespace_and_role_is_one_connection(stores: Stores, tenant: Make) -> None:
    with stores.of(LOCAL) as own, stores.of(tenant("acme")) as acme, stores.of(tenant("acme")) as again:
        assert own is stores.own and acme is again and acme is not own
        with stores.of(tenant("umbrella")) as other, stores.of(tenant("acme", role="reader")) as reader:
            assert len({id(store) for store in (own, acme, other, reader)}) == 4
        assert acme.stats() and other.stats()


def test_the_token_that_holds_longest_is_shown(stores: Stores, tenant: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from cachestore.service.auth import tokens

    monkeypatch.setattr(tokens, "SKEW", 0.0)
    short, long = tenant("acme", 0.5), tenant("acme", 60.0)
    with stores.of(short) as store:
        assert store.stats()
        with stores.of(long):
            pass
        time.sleep(0.6)
        assert store.stats(), "a later request brought a token that still holds"
    late = tenant("umbrella", 0.1)
    with stores.of(late) as store:
        time.sleep(0.2)
        with pytest.raises(Unauthenticated):
            store.stats()


def test_one_that_cannot_be_opened_is_not_kept(
    stores: Stores, tenant: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setenv("CACHESTORE_CA", str(tmp_path / "nowhere"))
        for _ in range(2):
            with pytest.raises(ConfigError), stores.of(tenant("acme")):
                raise AssertionError("it cannot be open")
    with stores.of(tenant("acme")) as store:
        assert store.stats()


def test_few_are_kept_that_nobody_uses(stores: Stores, tenant: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_IDLE", 2)
    with stores.of(tenant("used")) as used:
        kept = []
        for number in range(4):
            with stores.of(tenant(f"n{number}")) as store:
                kept.append(store)
        assert used.stats()
        with stores.of(tenant("n3")) as store:
            assert store is kept[3]
        with stores.of(tenant("n0")) as store:
            assert store is not kept[0] and store.stats()
