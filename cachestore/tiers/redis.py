"""Sealed blocks in Redis, one string key a block.

1. Redis evicts. Cache blocks carry a time to live under `volatile-lru`; durable ones carry none, and end when their
   sealed header says so.
2. Redis decides what is present: the store keeps no list of what it wrote here.
3. A library's time-outs and retries stall a caller for seconds; ours are short, and a breaker stands before each
   server.
4. What Redis answers is not trusted: a value that cannot be a sealed block takes no memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from cachestore.block import Buffer
from cachestore.config import Bytes, Seconds
from cachestore.deadline import Deadline
from cachestore.errors import ConfigError
from cachestore.eviction.base import Eviction
from cachestore.tiers import redis_blocks, redis_removal
from cachestore.tiers.base import Departed, Found, Usage
from cachestore.tiers.embedded import EmbeddedRedis
from cachestore.tiers.ledger import Ledger
from cachestore.tiers.redis_blocks import cache_name, durable_name
from cachestore.tiers.redis_condition import Condition
from cachestore.tiers.redis_durable import Acknowledgement, Durability
from cachestore.tiers.redis_keeper import Keeper
from cachestore.tiers.redis_open import opened
from cachestore.tiers.redis_server import EMBEDDED, MANAGED, RedisServer
from cachestore.tiers.redis_servers import Servers
from cachestore.tiers.redis_url import parse
from cachestore.tiers.spare import Memory

SPARE_BYTES = 32 << 20
"""Memory that waits for the next read."""

RENEWALS = 4
"""How often a copy that is to stay is renewed within its time to live."""

ALONE = '; a node that shares nothing with others can write url = "embedded"'
"""What else to do where a server cannot be reached."""

LONGEST_SECONDS = 10 * 365 * 86400.0


@dataclass(frozen=True)
class Redis(RedisServer):
    """A Redis that holds sealed blocks.

    An embedded one is capped at `capacity` bytes; somebody else's brings its own cap. Cache blocks live for `ttl`
    seconds from their last write; blocks of more than `largest` bytes are neither written nor read.

    `durable` says when Redis counts as having a block for good, as `redis_durable` describes it, and `replicas` how
    many must have it with "wait" and "waitaof", asked for `ack_timeout` at most.

    A connection is made in `connect_timeout`; a short question takes `timeout` at most, and blocks are given up when
    none of their bytes moved for as long. A server's policy and persistence are looked at again after `check_after`.
    """

    table: ClassVar[str] = "tiers.redis"

    capacity: Bytes = 1 << 30
    largest: Bytes = 256 << 20
    ttl: Seconds = 86400.0
    connect_timeout: Seconds = 0.1
    timeout: Seconds = 0.25
    durable: Durability = "no"
    replicas: int = 0
    ack_timeout: Seconds = 1.0
    check_after: Seconds = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        place = self.place
        for name in ("ttl", "connect_timeout", "timeout", "ack_timeout", "check_after"):
            if not 0 < getattr(self, name) < LONGEST_SECONDS:
                raise ConfigError(f"tiers.redis.{name} must be more than 0 seconds and less than ten years")
        if self.capacity < 4 << 20:
            raise ConfigError(f"tiers.redis.capacity must be at least 4MiB, got {self.capacity}")
        if not 1 << 10 <= self.largest < 512 << 20:
            raise ConfigError(f"tiers.redis.largest must be at least 1KiB and below 512MiB, got {self.largest}")
        least = {"wait": 1}.get(self.durable, 0)
        if self.replicas < least or (self.replicas and self.durable in ("no", "aof")):
            raise ConfigError(
                f'tiers.redis.replicas must be 1 or more with durable = "wait", 0 or more with "waitaof" and 0 '
                f"otherwise, got {self.replicas}"
            )
        if place is not None and place.kind == "sentinel" and self.durable != "no" and not self.replicas:
            raise ConfigError(
                "tiers.redis.replicas must be 1 or more with sentinel://: a primary's disk is of no use once another "
                'took over; write durable = "wait" or "waitaof" and replicas = 1'
            )
        if self.url in (EMBEDDED, MANAGED) and self.durable != "no":
            raise ConfigError(f'tiers.redis.durable: url = "{self.url}" keeps nothing for good; name a server of yours')

    def start(self, eviction: Eviction) -> "RedisTier":
        return RedisTier(self)


@dataclass(eq=False)
class RedisTier:
    """Its servers, and memory for what they answer."""

    settings: Redis
    name: str = "redis"
    hot: bool = False
    ledger: Ledger | None = None
    _server: EmbeddedRedis | None = None
    _servers: Servers = field(init=False)
    _memory: Memory = field(default_factory=lambda: Memory(SPARE_BYTES))
    _keeper: Keeper = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self._servers = Servers(settings.timeout)
        acknowledgement = Acknowledgement(settings.durable, settings.replicas, settings.ack_timeout)
        self._keeper = Keeper(self._servers, acknowledgement)

    @property
    def healthy(self) -> bool:
        """A cluster is healthy while any of its nodes is."""
        return self._servers.healthy

    @property
    def durable(self) -> bool:
        """Whether it is to be. A server that cannot acknowledge anything now says so block by block."""
        return self.settings.durable != "no"

    def open(self, departed: Departed) -> None:
        settings, keeper = self.settings, self._keeper
        keeper.departed = departed
        if settings.url == EMBEDDED:
            self._server = EmbeddedRedis(settings.capacity)
            self._server.open()
        try:
            place = settings.place if self._server is None else parse(self._server.url, settings.table)
            assert place is not None
            dialer, guide = settings.dialers(place, settings.connect_timeout, settings.timeout)
            self._servers.map = opened(place, dialer, guide, keeper.acknowledgement, settings.check_after, ALONE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._servers.close()
        if self._server is not None:
            self._server.close()
            self._server = None

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        found = self.present(namespace, keys, deadline)
        return found.index(False) if False in found else len(found)

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        if not keys:
            return []
        names = [cache_name(namespace, key) for key in keys]
        until = self._servers.soon(len(keys), deadline)
        found = self._servers.each(names, until, False, redis_blocks.present, self.durable)
        if self.durable:
            self._keeper.kept.missed(namespace, [key for key, there in zip(keys, found, strict=True) if not there])
        return found

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        names = [cache_name(namespace, key) for key in keys]
        found, all_asked = self._read(names, deadline)
        if not self.durable or not all_asked:
            return found
        missing = [index for index, value in enumerate(found) if not isinstance(value, np.ndarray)]
        durable, _ = self._read([durable_name(names[index]) for index in missing], deadline)
        for index, value in zip(missing, durable, strict=True):
            if isinstance(value, np.ndarray) and redis_blocks.over(value):
                until = self._servers.soon(1, deadline)
                self._servers.each([names[index]], until, False, redis_removal.end_over)
            elif value is not None:
                found[index] = value
        self._keeper.kept.missed(namespace, [keys[index] for index in missing if found[index] is None])
        return found

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        fitting = {cache_name(namespace, key): data for key, data in blocks if data.nbytes <= self.settings.largest}
        names = list(fitting)
        if durable:
            kept = self._keeper.put(namespace, blocks, fitting, deadline) if self.durable else []
            return kept or [False] * len(blocks)
        lifetime = max(1, int(1000 * (self.settings.ttl if ttl is None else ttl)))
        kept = self._servers.each(names, deadline.at, False, redis_blocks.put, fitting, lifetime)
        there = dict(zip(names, kept, strict=True))
        return [there.get(cache_name(namespace, key), False) for key, _ in blocks]

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        """With "withdrawn", durable blocks go only if this process made them so, and nobody wrote them since."""
        if why == "withdrawn":
            return self._keeper.withdraw(namespace, keys, deadline)
        names = [cache_name(namespace, key) for key in keys]
        kept, until = self._keeper.kept, self._servers.soon(len(keys), deadline)
        before = kept.there(namespace, keys)
        removal = redis_removal.unlink if why == "corrupt" else redis_removal.remove
        removed = self._servers.each(names, until, None, removal)
        if why != "corrupt":
            gone = {key for key, answer in zip(keys, removed, strict=True) if answer is not None}
            kept.went(namespace, {key: block for key, block in before.items() if key in gone})
        return None if None in removed else [bool(there) for there in removed]

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        removed: set[bytes] = set()
        before = self._keeper.kept.there(namespace)
        nodes = self._servers.nodes(deadline)
        for node in nodes:
            cursor = None
            while cursor != 0:
                until = self._servers.soon(0, deadline)
                swept = self._servers.on(node, until, redis_removal.clear, namespace, cursor or 0)
                if swept is None:
                    return None
                cursor, keys = swept
                removed |= keys
        if not nodes:
            return None
        self._keeper.kept.went(namespace, before)
        return removed

    def kept(self, namespace: bytes, keys: Sequence[bytes], ends: float = 0.0) -> list[bool]:
        held = self._keeper.kept.there(namespace, keys)
        return [key in held and held[key].ends >= ends for key in keys]

    def durable_bytes(self, namespace: bytes) -> int:
        return self._keeper.kept.nbytes(namespace)

    def recount(self, namespace: bytes, deadline: Deadline) -> None:
        self._keeper.recount(namespace, self.settings.check_after, deadline)

    def look(self, deadline: Deadline) -> None:
        self._keeper.look(deadline)

    @property
    def renewed_within(self) -> float:
        return self.settings.ttl / RENEWALS

    def renew(self, namespace: bytes, blocks: Sequence[tuple[bytes, float]], deadline: Deadline) -> None:
        lifetimes = {
            cache_name(namespace, key): max(1, int(1000 * min(left, self.settings.ttl))) for key, left in blocks
        }
        until = self._servers.soon(len(lifetimes), deadline)
        self._servers.each(list(lifetimes), until, False, redis_blocks.prolong, lifetimes)

    def usage(self, deadline: Deadline | None = None) -> Usage:
        own = Deadline.after(self.settings.timeout)
        deadline = own if deadline is None or own.at < deadline.at else deadline
        asked = [self._servers.on(node, deadline.at, Condition.of) for node in self._servers.nodes(deadline)]
        answers = [condition for condition in asked if condition is not None]
        return Usage(sum(answer.used for answer in answers), sum(answer.capacity for answer in answers))

    def _read(self, names: Sequence[bytes], deadline: Deadline) -> tuple[list[Found], bool]:
        return self._servers.values(names, deadline, self._memory, self.settings.largest)
