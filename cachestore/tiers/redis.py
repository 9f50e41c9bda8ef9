"""Sealed blocks in Redis, one string key a block.

1. Redis evicts. Cache blocks carry a time to live under `volatile-lru`; any other policy is refused at start, because
   it would drop what must stay, or refuse writes where old blocks should leave.
2. Redis decides what is present: the store keeps no list of what it wrote here.
3. The library's own time-outs and retries stall a caller for 20 seconds and more; ours are short, and a breaker stands
   before them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachestore.block import Buffer
from cachestore.config import Bytes, Seconds
from cachestore.deadline import Deadline
from cachestore.errors import ConfigError, Unavailable
from cachestore.tiers.base import Departed, Found, Usage
from cachestore.tiers.breaker import Breaker
from cachestore.tiers.embedded import EmbeddedRedis

T = TypeVar("T")
BATCH_BYTES = 4 << 20
POLICY = "volatile-lru"
_ANY_KEY = b"[0-9a-f]" * 64
SCHEMES = ("redis", "rediss", "unix")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Redis:
    """`url` is `redis://`, `rediss://`, `unix://`, or "embedded": a server of our own, capped at `capacity` bytes.

    Somebody else's server brings its own cap. Blocks live for `ttl` seconds from their last write.
    """

    url: str = field(default="embedded", repr=False)
    capacity: Bytes = 1 << 30
    ttl: Seconds = 86400.0
    connect_timeout: Seconds = 0.1
    timeout: Seconds = 0.25

    def __post_init__(self) -> None:
        if self.url != "embedded" and not _usable(self.url):
            raise ConfigError(
                'tiers.redis.url must be "embedded", redis://host:port, rediss://host:port or unix:///path; '
                "signs in a password other than letters and digits are written as %xx"
            )
        if self.capacity < 4 << 20:
            raise ConfigError(f"tiers.redis.capacity must be at least 4MiB, got {self.capacity}")
        if not (self.ttl > 0 and self.connect_timeout > 0 and self.timeout > 0):
            raise ConfigError("tiers.redis.ttl, connect_timeout and timeout must be more than 0 seconds")

    def start(self) -> "RedisTier":
        return RedisTier(self)


def _usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        place = parts.path if parts.scheme == "unix" else parts.hostname
        return parts.scheme in SCHEMES and bool(place) and parts.port != 0
    except ValueError:
        return False


def _key(namespace: bytes, key: bytes) -> bytes:
    return b"cachestore:block:" + namespace.hex().encode() + b":" + key.hex().encode()


@dataclass(eq=False)
class RedisTier:
    """One connection pool, one breaker."""

    settings: Redis
    name: str = "redis"
    durable: bool = False
    counted: bool = False
    _server: EmbeddedRedis | None = None
    _client: Any = None
    _breaker: Breaker = field(default_factory=Breaker)

    @property
    def healthy(self) -> bool:
        return not self._breaker.open

    def open(self, departed: Departed) -> None:
        url = self.settings.url
        if url == "embedded":
            self._server = EmbeddedRedis(self.settings.capacity)
            self._server.open()
            url = self._server.url
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_connect_timeout=self.settings.connect_timeout,
                socket_timeout=self.settings.timeout,
                retry=Retry(NoBackoff(), 0),
            )
            policy = self._client.info("memory").get("maxmemory_policy", "unknown")
        except redis.AuthenticationError as error:
            self.close()
            raise ConfigError(f"tiers.redis.url: {self._shown} refuses the user or password in it") from error
        except (redis.RedisError, OSError, ValueError, TypeError) as error:
            self.close()
            raise Unavailable(
                f"tiers.redis.url: cannot reach {self._shown} ({type(error).__name__}); "
                'start that server, or write url = "embedded"'
            ) from error
        if policy != POLICY:
            self.close()
            raise ConfigError(
                f"tiers.redis.url: {self._shown} runs maxmemory-policy {policy}; the store needs {POLICY} "
                f"(redis-cli CONFIG SET maxmemory-policy {POLICY})"
            )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._server is not None:
            self._server.close()
            self._server = None

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        names = [_key(namespace, key) for key in keys]
        # one variadic EXISTS answers the common cases, all and none, in a seventh of a pipeline's time
        count = self._try(lambda client: int(client.exists(*names)), 0, deadline) if names else 0
        if count in (0, len(names)):
            return count
        found = self.present(namespace, keys, deadline)
        return found.index(False) if False in found else len(found)

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        def ask(client: Any) -> list[bool]:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.exists(_key(namespace, key))
            return [bool(found) for found in pipeline.execute()]

        return self._try(ask, [False] * len(keys), deadline) if keys else []

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        found = self._try(lambda client: client.mget([_key(namespace, key) for key in keys]), None, deadline)
        if found is None:
            return [None] * len(keys)
        return [None if value is None else np.frombuffer(value, dtype=np.uint8) for value in found]

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        lifetime = int(1000 * (self.settings.ttl if ttl is None else ttl))
        kept: list[bool] = []
        for batch in _batches(blocks):

            def send(client: Any, batch: list[tuple[bytes, Buffer]] = batch) -> list[bool]:
                pipeline = client.pipeline(transaction=False)
                for key, data in batch:
                    pipeline.set(_key(namespace, key), data.data, px=lifetime)
                return [answer is True for answer in pipeline.execute(raise_on_error=False)]

            kept += self._try(send, [False] * len(batch), deadline)
        return kept

    def delete_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool] | None:
        def unlink(client: Any) -> list[bool] | None:
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.unlink(_key(namespace, key))
            return [bool(there) for there in pipeline.execute()]

        return self._try(unlink, None, deadline) if keys else []

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        removed: set[bytes] = set()
        cursor = 0
        while True:

            def sweep(client: Any, cursor: int = cursor) -> tuple[int, list[bytes]]:
                following, names = client.scan(cursor, match=_key(namespace, b"") + _ANY_KEY, count=1000)
                if names:
                    client.unlink(*names)
                return int(following), names

            swept = self._try(sweep, None, deadline)
            if swept is None:
                return None
            cursor, names = swept
            removed.update(bytes.fromhex(name.rpartition(b":")[2].decode()) for name in names)
            if not cursor:
                return removed

    def usage(self) -> Usage:
        def ask(client: Any) -> Usage:
            memory = client.info("memory")
            return Usage(int(memory["used_memory"]), int(memory["maxmemory"]))

        return self._try(ask, Usage(0, 0), Deadline.after(self.settings.timeout))

    @property
    def _shown(self) -> str:
        """The URL without its password."""
        parts = urlsplit(self.settings.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def _try(self, call: Callable[[Any], T], otherwise: T, deadline: Deadline) -> T:
        client = self._client
        if client is None or not deadline.remaining() or not self._breaker.allows():
            return otherwise
        try:
            answer = call(client)
        except (redis.RedisError, OSError) as error:
            self._breaker.failed()
            log.warning("redis tier: %s", type(error).__name__)
            return otherwise
        self._breaker.succeeded()
        return answer


def _batches(blocks: Sequence[tuple[bytes, Buffer]]) -> Iterator[list[tuple[bytes, Buffer]]]:
    batch: list[tuple[bytes, Buffer]] = []
    size = 0
    for block in blocks:
        if batch and size + block[1].nbytes > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(block)
        size += block[1].nbytes
    if batch:
        yield batch
