"""A directory in Redis: many nodes tell, anybody asks.

1. For a whole prompt there is one round trip: entries by MGET, the Redis tier's own blocks beside them by EXISTS. Of
   these nothing is noted, because Redis drops them unseen.
2. What is told waits in a queue with a bound. What does not fit is counted, and the node says all again.
3. A node is alive until its time is over by the server's clock. What a dead one said is not believed, and removed by
   whoever comes across it.
4. A server that answers late or not at all costs a lookup the time-out, until a breaker stands before it.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock

from cachestore.config import Seconds
from cachestore.deadline import Deadline, held_until
from cachestore.directory.base import NOWHERE, Earlier, Held, Life, Where, check_names, idle
from cachestore.directory.redis_entries import entry_name, fold
from cachestore.directory.redis_lookup import Lookup
from cachestore.directory.redis_member import Member
from cachestore.directory.redis_reach import Reach, Server
from cachestore.directory.redis_suspects import Suspects
from cachestore.directory.redis_sweep import sweep
from cachestore.directory.redis_telling import Telling
from cachestore.errors import ConfigError, InvalidArgument, Unavailable
from cachestore.metrics import Counters, Figure
from cachestore.tiers.redis import Redis as Tier
from cachestore.tiers.redis_node import Node
from cachestore.tiers.redis_server import EMBEDDED, RedisServer
from cachestore.tiers.redis_servers import Servers

SWEEP_SECONDS = 1.0
"""How often entries are looked through, by one node or another."""

BUSY_SECONDS = 0.05
"""How soon a step follows another while there is more to tell."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Redis:
    """`server` is a Redis of its own, described as in a Redis tier; without one the tier's servers are used.

    A node says every `heartbeat` seconds that it lives, and is dead when it was not heard of for `ttl`. Connections
    are made in `connect_timeout`; a question takes `timeout`, and 50 us more for each name in it.

    `backlog` changes wait to be told at most. `rate` is how many blocks a second a node says again that it holds: all
    of them when the directory lost them, and every `refresh` seconds. Together all nodes look through `sweep_rate`
    names a second on each server for what dead nodes left.
    """

    server: Server | None = None
    ttl: Seconds = 10.0
    heartbeat: Seconds = 2.0
    connect_timeout: Seconds = 0.1
    timeout: Seconds = 0.25
    backlog: int = 1 << 17
    rate: int = 20_000
    refresh: Seconds = 600.0
    sweep_rate: int = 1000

    def __post_init__(self) -> None:
        for name in ("ttl", "heartbeat", "connect_timeout", "timeout", "refresh"):
            if not 0 < getattr(self, name) <= 86400:
                raise ConfigError(f"directory.{name} must be more than 0 seconds and at most a day")
        if self.ttl < 3 * self.heartbeat:
            raise ConfigError(
                f"directory.ttl must be three heartbeats or more, so that one may be late: at least "
                f"{3 * self.heartbeat:g}s with heartbeat = {self.heartbeat:g}s, got {self.ttl:g}s"
            )
        for name in ("backlog", "rate", "sweep_rate"):
            if not 1 <= getattr(self, name) <= 1 << 24:
                raise ConfigError(f"directory.{name} must lie in 1 .. {1 << 24}, got {getattr(self, name)}")
        self._check(self.server)

    def start(self, tier: Tier | None = None) -> "RedisDirectory":
        """A directory on `server`, or else on the servers of this Redis tier."""
        server = self.server or tier
        if server is None:
            raise ConfigError(
                'directory.name = "redis" finds no Redis: add a redis tier, or say where it is in [directory.server]'
            )
        self._check(server)
        return RedisDirectory(self, server, tier if self.server is None else None)

    def _check(self, server: RedisServer | None) -> None:
        if server is not None and server.place is None:
            raise ConfigError(
                f'directory.name = "redis" is for several nodes, and {server.table}.url = "{EMBEDDED}" is a server of '
                'one node alone; name a Redis that all of them reach, or write directory.name = "memory"'
            )


@dataclass(eq=False)
class RedisDirectory:
    """A part in the directory on `server`. `tier` is the Redis tier there whose blocks a lookup tells, too."""

    settings: Redis
    server: RedisServer
    tier: Tier | None = None
    due: Event = field(default_factory=Event)
    _servers: Servers = field(init=False)
    _member: Member = field(init=False)
    _telling: Telling = field(init=False)
    _lookup: Lookup = field(init=False)
    _suspects: Suspects = field(init=False)
    _counters: Counters = field(default_factory=Counters)
    _cursors: dict[Node, int] = field(default_factory=dict)
    _beat_at: float = -math.inf
    _sweep_at: float = -math.inf
    _stepping: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        place = self.server.place
        assert place is not None
        clustered, tier = place.kind == "cluster", self.tier
        self._servers = Servers(self.settings.timeout)
        self._member = Member(self._servers, self.settings.ttl)
        self._suspects = Suspects(self._member.lives)
        self._telling = Telling(self._servers, clustered, self.settings, self._counters)
        self._lookup = Lookup(self._servers, clustered, tier is not None, tier is not None and tier.durable != "no")

    @property
    def every(self) -> float:
        return BUSY_SECONDS if self._telling.busy else min(self.settings.heartbeat / 2, SWEEP_SECONDS)

    @property
    def healthy(self) -> bool:
        return self._servers.healthy

    @property
    def life(self) -> Life | None:
        return self._member.life

    @property
    def lived(self) -> tuple[bytes, ...]:
        return self._member.lived

    def open(self) -> None:
        place = self.server.place
        assert place is not None
        self._servers.map = Reach(self.server, self.settings.connect_timeout, self.settings.timeout).map(place)
        self.step()

    def close(self) -> None:
        self._servers.close()

    def join(self, node: str, address: str, held: Held, queue: Callable[[], int] = idle) -> None:
        check_names(node, address)
        with self._stepping:
            if self._member.life is not None:
                raise InvalidArgument("a directory can be joined once; leave it first")
            self._member.queue = queue
            self._begin(node, address, held)

    def leave(self) -> None:
        with self._stepping:
            life, self._member.life = self._member.life, None
            if life is not None:
                self._member.bury([life.incarnation])
                self._telling.end()

    def announce(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        self._tell(namespace, keys, True)

    def withdraw(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        self._tell(namespace, keys, False)

    def lookup(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Where]:
        answers = self._lookup.ask(namespace, keys, deadline)
        pending = self._telling.pending
        told: dict[tuple[bytes, bool], Where] = {(b"", False): NOWHERE}
        found = []
        for key, entry, there in zip(keys, answers.logs, answers.there, strict=True):
            where = told.get((entry, there))
            if where is None:
                where = Where(self._believed(entry_name(namespace, key), entry), there)
                # others with the same log are held by the same, unless somebody is in it whom nobody knows
                if len(where.holders) == len(fold(entry) or ()):
                    told[entry, there] = where
            if where.holders and pending.removes and (gone := pending.removed(entry_name(namespace, key))):
                where = Where(tuple(life for life in where.holders if life.incarnation not in gone), there)
            found.append(where)
        self._counters.add("directory_lookups")
        self._counters.add("directory_asked", len(keys))
        self._counters.add("directory_unasked", answers.unasked)
        self._counters.add("directory_found", sum(where != NOWHERE for where in found))
        return found

    def wrong(self, namespace: bytes, keys: Sequence[bytes], incarnation: bytes) -> None:
        self._counters.add("directory_wrong", len(keys))
        self._telling.remove({entry_name(namespace, key): (incarnation,) for key in keys})
        self.due.set()

    def drop(self, node: str, deadline: Deadline) -> None:
        lives = [*self._member.lives.all(), *(each.life for each in self._member.lives.earlier())]
        found = [life.incarnation for life in lives if life.node == node]
        if found:
            with held_until(self._stepping, deadline) as held:
                if not held or not self._member.drop(found):
                    raise Unavailable(f"the directory cannot be told to forget {node}: not all of its Redis answers")

    def lives(self) -> tuple[Life, ...]:
        return self._member.lives.all()

    def earlier(self) -> tuple[Earlier, ...]:
        return self._member.lives.earlier()

    def refresh(self, deadline: Deadline) -> bool:
        # not as a step, which may be about to tell much: whoever asks this waits for it
        return self._member.refresh(deadline)

    def step(self) -> None:
        with self._stepping:
            try:
                self._step()
            except Exception:
                # whoever calls this has no other chance to go on
                log.exception("directory: a step failed")
                self._counters.add("directory_failed_steps")

    def figures(self) -> list[Figure]:
        life = self._member.life
        now = {
            "directory_alive": int(life is not None and self._member.lives.find(life.incarnation) is not None),
            "directory_pending": len(self._telling.pending),
            "directory_lives": len(self.lives()),
            "directory_suspects": len(self._suspects),
        }
        return sorted([*self._counters.figures(), *(Figure(name, (), value) for name, value in now.items())])

    def _step(self) -> None:
        now = time.monotonic()
        if now >= self._beat_at or (self._suspects and now >= self._beat_at - 0.9 * self.settings.heartbeat):
            self._beat(now)
        life = self._member.life
        # who is not noted yet is not believed, and what it says would be removed again
        own = life.incarnation if life is not None and self._member.told else None
        self._telling.go_on(own, now + self.settings.heartbeat / 2)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self._sweep()

    def _beat(self, now: float) -> None:
        suspects = self._suspects.take()
        before = self._member.life
        whole = self._member.beat()
        self._beat_at = now + self.settings.heartbeat
        after = self._member.life
        if before is not None and after is not None and before.incarnation != after.incarnation:
            self._counters.add("directory_births")
            self._telling.say_all()
        if not whole:
            # who was not heard of may be known to a server that did not answer
            return
        self._telling.remove(self._suspects.dead(suspects))

    def _sweep(self) -> None:
        # so that all together do it once, however many they are
        if random.random() * len(self._member.lives.all()) > 1:
            return
        rolls = self._member.rolls()
        for node in self._servers.nodes(Deadline(time.monotonic() + self.settings.timeout)):
            until = time.monotonic() + 2 * self.settings.timeout
            rest = self._cursors.get(node, 0), self.settings.sweep_rate, self._lookup.clustered, rolls
            swept = self._servers.on(node, until, sweep, *rest)
            if swept is None:
                continue
            self._cursors[node] = swept.cursor
            self._counters.add("directory_swept", len(swept.holders) + len(swept.empty))
            for name, held in swept.holders.items():
                self._suspect(name, held)
            self._telling.remove(dict.fromkeys(swept.empty, ()))

    def _believed(self, name: bytes, entry: bytes) -> tuple[Life, ...]:
        """Those of an entry's holders that are alive."""
        held = fold(entry)
        if held is None:
            self._telling.remove({name: ()})
            return ()
        self._suspect(name, held)
        lives = (self._member.lives.find(incarnation) for incarnation in held)
        return tuple(life for life in lives if life is not None)

    def _suspect(self, name: bytes, held: Sequence[bytes]) -> None:
        if self._suspects.note(name, held):
            # so that the next look comes soon
            self.due.set()

    def _tell(self, namespace: bytes, keys: Sequence[bytes], there: bool) -> None:
        if self._member.life is None:
            raise InvalidArgument("nothing can be announced in a directory that was not joined")
        self._telling.tell([entry_name(namespace, key) for key in keys], there)
        self.due.set()

    def _begin(self, node: str, address: str, held: Held) -> None:
        self._member.begin(node, address)
        self._telling.begin(held)
        self._counters.add("directory_births")
        self._beat_at = -math.inf
        self.due.set()
