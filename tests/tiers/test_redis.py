"""The Redis tier: the contract of cold tiers, and a server that lies, hangs, dies and comes back."""

import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import redis

from cachestore.cluster.ports import free_port
from cachestore.errors import CacheStoreError, ConfigError, Unavailable
from cachestore.testing import TierTests
from cachestore.testing.tiers import KEYS, A, departed, soon, value
from cachestore.tiers.base import ColdTier
from cachestore.tiers.redis import Redis, RedisTier


class TestEmbedded(TierTests):
    @pytest.fixture
    def tier(self) -> Iterator[ColdTier]:
        yield from opened(Redis(capacity=64 << 20))


class TestByUrl(TierTests):
    @pytest.fixture(params=["unix", "tcp", "tcp with a password"])
    def tier(
        self, request: pytest.FixtureRequest, redis_server: Callable[..., Any], password: str
    ) -> Iterator[ColdTier]:
        secret = password if "password" in request.param else ""
        yield from opened(Redis(redis_server(tcp="tcp" in request.param, password=secret).url))


def opened(settings: Redis) -> Iterator[RedisTier]:
    tier = settings.start()
    tier.open(departed)
    yield tier
    tier.close()


@pytest.fixture
def server(redis_server: Callable[..., Any]) -> Any:
    return redis_server()


@pytest.fixture
def tier(server: Any) -> Iterator[RedisTier]:
    yield from opened(Redis(server.url, ttl=1000.0))


def test_values_are_the_bytes_given_under_readable_names_and_carry_a_time_to_live(tier: RedisTier, server: Any) -> None:
    tier.put_many(A, [(KEYS[1], value(1))], None, soon())
    tier.put_many(A, [(KEYS[2], value(2))], 5.0, soon())
    with server.client() as client:
        names = sorted(client.keys())
        prefix = f"cachestore:block:{A.hex()}:"
        assert names == [f"{prefix}{KEYS[1].hex()}".encode(), f"{prefix}{KEYS[2].hex()}".encode()]
        assert client.get(names[0]) == value(1).tobytes()
        assert 990_000 < client.pttl(names[0]) <= 1_000_000 and 4000 < client.pttl(names[1]) <= 5000


def test_a_value_of_another_type_is_a_miss(tier: RedisTier, server: Any) -> None:
    name = f"cachestore:block:{A.hex()}:{KEYS[0].hex()}"
    with server.client() as client:
        client.rpush(name, b"x")
        assert tier.get_many(A, KEYS[:1], soon()) == [None] and tier.healthy
        assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True]
        client.set(name, b"")
    (empty,) = tier.get_many(A, KEYS[:1], soon())
    assert empty is not None and empty.nbytes == 0


def test_a_full_server_refuses_and_stays_healthy(redis_server: Callable[..., Any]) -> None:
    server = redis_server()
    for tier in opened(Redis(server.url)):
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
        assert tier.put_many(A, [(KEYS[0], value(0)), (KEYS[1], value(1))], None, soon()) == [False, False]
        assert tier.healthy and tier.get_many(A, KEYS[:1], soon()) == [None]


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "volatile-ttl"])
def test_other_policies_are_refused(redis_server: Callable[..., Any], password: str, policy: str) -> None:
    server = redis_server(policy=policy, tcp=True, password=password)
    with pytest.raises(ConfigError, match=f"{policy}; the store needs volatile-lru") as caught:
        Redis(server.url).start().open(departed)
    assert password not in str(caught.value) and str(server.port) in str(caught.value)


@pytest.mark.parametrize("wrong", ["", ":wrong@", "nobody:wrong@"])
def test_a_wrong_password_is_refused(redis_server: Callable[..., Any], password: str, wrong: str) -> None:
    server = redis_server(tcp=True, password=password)
    with pytest.raises(ConfigError, match="refuses the user or password") as caught:
        Redis(f"redis://{wrong}127.0.0.1:{server.port}").start().open(departed)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@127.0.0.1:1/0",
        "rediss://u:secret@127.0.0.1:1",
        "unix://:secret@/nowhere/redis.sock",
        "redis://127.0.0.1:1?password=secret",
        "redis://:secret@no-such-host.invalid:6379",
        "redis://:secret@127.0.0.1:1/0?no_such_option=1",
    ],
)
def test_a_server_that_cannot_be_reached_is_refused_at_start(url: str) -> None:
    with pytest.raises(Unavailable, match=r'cannot reach.*start that server, or write url = "embedded"') as caught:
        Redis(url).start().open(departed)
    error: BaseException | None = caught.value
    assert "secret" not in str(error)


def test_a_killed_server_is_misses_and_heals_at_the_same_place(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    tier.put_many(A, [(KEYS[0], value(0))], None, soon())
    server.kill()
    for _ in range(4):
        assert tier.get_many(A, KEYS[:2], soon()) == [None, None]
        assert tier.present(A, KEYS[:2], soon()) == [False, False] and tier.leading(A, KEYS[:2], soon()) == 0
        assert tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [False]
        assert tier.delete_many(A, KEYS[:1], soon()) is None and tier.clear(A, soon()) is None
        assert tier.usage().used == 0
    assert not tier.healthy
    server.start()
    eventually(lambda: tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [True])
    assert tier.healthy and tier.present(A, KEYS[:2], soon()) == [False, True]


def test_a_server_that_hangs_holds_nobody_up(tier: RedisTier, server: Any, eventually: Callable[..., None]) -> None:
    tier.put_many(A, [(KEYS[0], value(0))], None, soon())
    server.pause()
    calls: list[Callable[[], object]] = [
        lambda: tier.get_many(A, KEYS, soon()),
        lambda: tier.present(A, KEYS, soon()),
        lambda: tier.put_many(A, [(key, value(1, 2 << 20)) for key in KEYS], None, soon()),
        lambda: tier.leading(A, KEYS, soon()),
        lambda: tier.delete_many(A, KEYS, soon()),
        lambda: tier.clear(A, soon()),
        tier.usage,
    ]
    for call in calls * 2:
        begun = time.monotonic()
        call()
        assert time.monotonic() - begun < tier.settings.timeout * 3 + 1
    assert not tier.healthy
    server.resume()
    eventually(lambda: tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True])
    assert tier.healthy and tier.present(A, KEYS[:1], soon()) == [True]


def test_answers_that_come_late_are_never_taken_for_others(
    tier: RedisTier, server: Any, eventually: Callable[..., None]
) -> None:
    for number in range(4):
        tier.put_many(A, [(KEYS[number], value(number))], None, soon())
    for _ in range(3):
        server.pause()
        assert tier.get_many(A, KEYS[:1], soon()) == [None]
        server.resume()
        for number in (1, 2, 3):

            def got(number: int = number) -> bool:
                (data,) = tier.get_many(A, [KEYS[number]], soon())
                assert data is None or np.array_equal(data, value(number))
                return data is not None

            eventually(got)


def test_a_password_changed_under_way_is_a_miss(redis_server: Callable[..., Any], password: str) -> None:
    server = redis_server(password=password)
    for tier in opened(Redis(server.url)):
        with server.client() as client:
            client.config_set("requirepass", password + "x")
            client.client_kill_filter(skipme=True)
            for _ in range(4):
                assert tier.get_many(A, KEYS[:1], soon()) == [None]
            client.config_set("requirepass", password)
        assert not tier.healthy


@pytest.mark.skipif(which("redis-server") is None, reason="the wheel's server has no TLS: install redis-server")
def test_tls_with_a_certificate_of_ones_own(redis_server: Callable[..., Any], tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key)]
    subprocess.run([*make, "-out", str(certificate), *subject], check=True, capture_output=True)
    assert ssl.create_default_context(cafile=str(certificate))
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    port = free_port()
    extra = ["--tls-port", str(port), "--tls-ca-cert-file", str(certificate), *options]
    server = redis_server(tcp=True, extra=extra, program=which("redis-server"))
    url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}"
    for tier in opened(Redis(url)):
        assert tier.put_many(A, [(KEYS[0], value(0))], None, soon()) == [True]
        with server.client() as client:
            assert client.dbsize() == 1
    with pytest.raises(Unavailable):
        Redis(f"rediss://127.0.0.1:{port}").start().open(departed)


def test_errors_have_one_root() -> None:
    assert issubclass(ConfigError, CacheStoreError) and not issubclass(CacheStoreError, redis.RedisError)
