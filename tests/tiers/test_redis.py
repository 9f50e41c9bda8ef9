"""The Redis tier: the contract of cold tiers over servers, Sentinels and TLS, and what is refused at the start."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cachestore.errors import ConfigError, Unavailable
from cachestore.eviction.lru import Lru
from cachestore.testing import TierTests
from cachestore.testing.tiers import KEYS, A, departed, soon, value
from cachestore.tiers.base import ColdTier
from cachestore.tiers.redis import Redis, RedisTier


class TestEmbedded(TierTests):
    @pytest.fixture
    def tier(self) -> Iterator[ColdTier]:
        yield from opened(Redis(capacity=64 << 20))


class TestByUrl(TierTests):
    @pytest.fixture(params=["unix", "tcp with a password", "tcp with a user"])
    def tier(
        self, request: pytest.FixtureRequest, redis_server: Callable[..., Any], password: str
    ) -> Iterator[ColdTier]:
        secret = password if "with" in request.param else ""
        user = "store" if "user" in request.param else ""
        yield from opened(Redis(redis_server(tcp="tcp" in request.param, password=secret, user=user).url))


class TestDurable(TierTests):
    """The suite over a server that keeps blocks for good: what is not durable is what it is elsewhere."""

    @pytest.fixture
    def tier(self, redis_server: Callable[..., Any]) -> Iterator[ColdTier]:
        server = redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"])
        yield from opened(Redis(server.url, durable="aof"))


class TestSentinel(TierTests):
    @pytest.fixture
    def tier(self, redis_sentinel: Callable[..., Any]) -> Iterator[ColdTier]:
        yield from opened(Redis(redis_sentinel(password="p", sentinel_password="s").url, sentinel_password="s"))


class TestTls(TierTests):
    @pytest.fixture
    def tier(self, redis_tls: Callable[..., Any], certificates: Any) -> Iterator[ColdTier]:
        yield from opened(Redis(redis_tls().url, ca_file=str(certificates.authority)))


def opened(settings: Redis) -> Iterator[RedisTier]:
    # time-outs are looked at elsewhere: a machine that is busy must not end these calls
    tier = replace(settings, connect_timeout=2.0, timeout=2.0).start(Lru())
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


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "volatile-ttl"])
def test_other_policies_are_refused(redis_server: Callable[..., Any], password: str, policy: str) -> None:
    server = redis_server(policy=policy, tcp=True, password=password)
    with pytest.raises(ConfigError, match=f"{policy}; the store needs volatile-lru") as caught:
        Redis(server.url).start(Lru()).open(departed)
    assert password not in str(caught.value) and str(server.port) in str(caught.value)


@pytest.mark.parametrize("wrong", ["", ":wrong@", "nobody:wrong@"])
def test_a_wrong_password_is_refused(redis_server: Callable[..., Any], password: str, wrong: str) -> None:
    server = redis_server(tcp=True, password=password)
    with pytest.raises(ConfigError, match="refuses the user or password") as caught:
        Redis(f"redis://{wrong}127.0.0.1:{server.port}").start(Lru()).open(departed)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@127.0.0.1:1/0",
        "rediss://u:secret@127.0.0.1:1",
        "unix://:secret@/nowhere/redis.sock",
        "redis://:secret@no-such-host.invalid:6379",
        "sentinel://:secret@127.0.0.1:1,127.0.0.1:2/blocks",
        "clusters://:secret@127.0.0.1:1,127.0.0.1:2",
    ],
)
def test_a_server_that_cannot_be_reached_is_refused_at_start(url: str) -> None:
    advice = 'start that server; a node that shares nothing with others can write url = "embedded"'
    with pytest.raises(Unavailable, match=f"cannot reach.*{advice}") as caught:
        Redis(url).start(Lru()).open(departed)
    error: BaseException | None = caught.value
    assert "secret" not in str(error)
