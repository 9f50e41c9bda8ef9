"""A directory in one process, on any clock."""

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import TYPE_CHECKING

from cachestore.config import Seconds
from cachestore.deadline import Deadline
from cachestore.directory.base import (
    INCARNATION_BYTES,
    MOST_LIVED,
    NOWHERE,
    Earlier,
    Held,
    Life,
    Where,
    check_names,
    idle,
)
from cachestore.errors import ConfigError, InvalidArgument
from cachestore.metrics import Counters, Figure

if TYPE_CHECKING:
    from cachestore.tiers.redis import Redis

BEATS = 5
"""How often a life is renewed within its time to live."""


@dataclass(frozen=True)
class Memory:
    """A node that was not heard of for `ttl` seconds is dead."""

    ttl: Seconds = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.ttl <= 3600:
            raise ConfigError(f"directory.ttl must be more than 0 seconds and at most an hour, got {self.ttl:g}")

    def start(self, tier: "Redis | None" = None) -> "MemoryDirectory":
        return MemoryDirectory(Board(), self.ttl)


@dataclass(eq=False)
class Board:
    """What the directories of one process share. `clock` gives seconds."""

    clock: Callable[[], float] = time.monotonic
    present: Callable[[bytes, bytes], bool] = lambda namespace, key: False
    """Whether the Redis tier has a block."""
    lives: dict[str, tuple[Life, float]] = field(default_factory=dict)
    """The latest life of each node, and when it is over."""
    holders: dict[tuple[bytes, bytes], dict[bytes, None]] = field(default_factory=dict)
    held: dict[bytes, set[tuple[bytes, bytes]]] = field(default_factory=dict)
    """What each life holds: as long as it is here it is known."""
    alive: dict[bytes, Life] = field(default_factory=dict)
    """The lives by incarnation."""
    lock: Lock = field(default_factory=Lock)
    _soonest: float = math.inf
    """No life is over before that."""

    def live(self, life: Life, ttl: float) -> None:
        """The node lives for so long from now on, if it is not heard of again. Under the lock."""
        until = self.clock() + ttl
        self.lives[life.node] = life, until
        self.alive[life.incarnation] = life
        self._soonest = min(self._soonest, until)

    def bury(self, life: Life) -> None:
        """Forgets the life of a node, and all that it held. Under the lock."""
        for name in self.held.pop(life.incarnation, ()):
            self.take(name, life.incarnation)
        del self.lives[life.node], self.alive[life.incarnation]

    def take(self, name: tuple[bytes, bytes], incarnation: bytes) -> bool:
        """Removes one entry; whether it was there. Under the lock."""
        holders = self.holders.get(name, {})
        if incarnation not in holders:
            return False
        del holders[incarnation]
        if not holders:
            del self.holders[name]
        return True

    def sweep(self) -> None:
        """Buries whose time is over. Under the lock."""
        now = self.clock()
        # every lookup asks, and nearly always all of many nodes live
        if now < self._soonest:
            return
        for life, until in list(self.lives.values()):
            if until <= now:
                self.bury(life)
        self._soonest = min((until for _, until in self.lives.values()), default=math.inf)


@dataclass(eq=False)
class MemoryDirectory:
    """A node's part in `board`, or a reader's. What is told is there at once."""

    board: Board
    ttl: float = 10.0
    due: Event = field(default_factory=Event)
    life: Life | None = None
    lived: tuple[bytes, ...] = ()
    healthy: bool = True
    _joined: tuple[Held, Callable[[], int]] = ((), idle)
    _counters: Counters = field(default_factory=Counters)

    @property
    def every(self) -> float:
        return self.ttl / BEATS

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def join(self, node: str, address: str, held: Held, queue: Callable[[], int] = idle) -> None:
        check_names(node, address)
        if self.life is not None:
            raise InvalidArgument("a directory can be joined once; leave it first")
        self._joined = held, queue
        self._begin(node, address)

    def leave(self) -> None:
        life, self.life = self.life, None
        if life is not None:
            with self.board.lock:
                # another one may have joined under this name meanwhile
                if life.incarnation in self.board.held:
                    self.board.bury(life)

    def announce(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        life = self._own()
        board = self.board
        with board.lock:
            # one that was buried says it again with its next life
            if (own := board.held.get(life.incarnation)) is not None:
                for key in keys:
                    own.add((namespace, key))
                    board.holders.setdefault((namespace, key), {})[life.incarnation] = None
        self._counters.add("directory_announced", len(keys))

    def withdraw(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        self._remove(namespace, keys, self._own().incarnation, "directory_withdrawn")

    def lookup(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Where]:
        if not deadline.remaining():
            self._counters.add("directory_unasked", len(keys))
            return [NOWHERE] * len(keys)
        board = self.board
        with board.lock:
            board.sweep()
            held = [
                tuple(board.alive[name] for name in board.holders.get((namespace, key), ()) if name in board.alive)
                for key in keys
            ]
        found = [Where(lives, board.present(namespace, key)) for key, lives in zip(keys, held, strict=True)]
        self._counters.add("directory_lookups")
        self._counters.add("directory_asked", len(keys))
        self._counters.add("directory_found", sum(where != NOWHERE for where in found))
        return found

    def wrong(self, namespace: bytes, keys: Sequence[bytes], incarnation: bytes) -> None:
        self._remove(namespace, keys, incarnation, "directory_healed")

    def drop(self, node: str, deadline: Deadline) -> None:
        with self.board.lock:
            if node in self.board.lives:
                self.board.bury(self.board.lives[node][0])

    def lives(self) -> tuple[Life, ...]:
        with self.board.lock:
            self.board.sweep()
            return tuple(self.board.lives[node][0] for node in sorted(self.board.lives))

    def earlier(self) -> tuple[Earlier, ...]:
        # in one process nobody goes on unseen
        return ()

    def refresh(self, deadline: Deadline) -> bool:
        with self.board.lock:
            return bool(deadline.remaining()) and (self.life is None or self.life.incarnation in self.board.held)

    def step(self) -> None:
        life, board = self.life, self.board
        with board.lock:
            board.sweep()
            if life is None:
                return
            known = life.incarnation in board.held
            succeeded = life.node in board.lives
            if known:
                self.life = replace(life, queue=self._joined[1]())
                board.live(self.life, self.ttl)
        if not known and not succeeded:
            self._begin(life.node, life.address)

    def figures(self) -> list[Figure]:
        now = Figure("directory_lives", (), len(self.lives()))
        return sorted([*self._counters.figures(), now])

    def _begin(self, node: str, address: str) -> None:
        held, queue = self._joined
        self.life = life = Life(node, address, secrets.token_bytes(INCARNATION_BYTES), queue())
        self.lived = (*self.lived, life.incarnation)[-MOST_LIVED:]
        board = self.board
        with board.lock:
            if node in board.lives:
                board.bury(board.lives[node][0])
            board.live(life, self.ttl)
            board.held[life.incarnation] = set()
        self._counters.add("directory_births")
        keys: dict[bytes, list[bytes]] = {}
        for namespace, key in tuple(held):
            keys.setdefault(namespace, []).append(key)
        for namespace, some in keys.items():
            self.announce(namespace, some)

    def _remove(self, namespace: bytes, keys: Sequence[bytes], incarnation: bytes, figure: str) -> None:
        board = self.board
        with board.lock:
            gone = [key for key in keys if board.take((namespace, key), incarnation)]
            board.held.get(incarnation, set()).difference_update((namespace, key) for key in gone)
        self._counters.add(figure, len(gone))

    def _own(self) -> Life:
        if self.life is None:
            raise InvalidArgument("nothing can be announced in a directory that was not joined")
        return self.life
