"""One process's life among those that are noted in Redis."""

import logging
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock

from cachestore.deadline import Deadline, held_until
from cachestore.directory.base import INCARNATION_BYTES, MOST_LIVED, Life, idle
from cachestore.directory.redis_entries import HEADS, LIVES
from cachestore.directory.redis_lives import Lives, Note, Roll, bury, call_roll, clock
from cachestore.tiers.redis_node import Node
from cachestore.tiers.redis_servers import Servers
from cachestore.tiers.resp import Connection

FOR_EVER = Deadline(math.inf)

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Member:
    """Says again and again that its life goes on, and learns who else lives. `refresh` aside, for one thread."""

    servers: Servers
    ttl: float
    lives: Lives = field(default_factory=Lives)
    life: Life | None = None
    queue: Callable[[], int] = idle
    lived: tuple[bytes, ...] = ()
    told: set[bytes] = field(default_factory=set)
    """The rolls in which this life was noted."""
    _born: int = 0
    _ahead: dict[bytes, int] = field(default_factory=dict)
    """By roll: how far its server's clock is ahead of this machine's monotonic one, in milliseconds."""
    _calling: Lock = field(default_factory=Lock)
    """Held from when a roll is read until it is learnt: what another thread read before must not undo it."""

    def begin(self, node: str, address: str) -> None:
        """From now on this is a life of this node, and no one knows of it yet."""
        self.life = Life(node, address, secrets.token_bytes(INCARNATION_BYTES), int(self.queue()))
        self.lived = (*self.lived, self.life.incarnation)[-MOST_LIVED:]
        self.told, self._born = set(), 0

    def beat(self) -> bool:
        """Says that it lives, and asks who else does; whether all servers answered.

        Where it was noted and is not any more, it was buried, or the server lost what it had: another life begins.
        """
        with self._calling:
            forgotten, whole = self._call_all()
            if forgotten and self.life is not None:
                log.warning("directory: %s was forgotten, and joins again", self.life.node)
                self.bury([self.life.incarnation])
                self.begin(self.life.node, self.life.address)
                forgotten, whole = self._call_all()
        return whole

    def refresh(self, deadline: Deadline) -> bool:
        """Asks who lives and says nothing; whether all servers answered in time, and know of this life if there is one.

        One that does not has lost what it was told, also by those who did not tell it again yet.
        """
        with held_until(self._calling, deadline) as held:
            if not held:
                return False
            life, rolls, known = self.life, self._rolls(deadline), 0
            for node, name in rolls.items():
                roll = self.servers.on(node, min(deadline.at, self._soon()), call_roll, name, None)
                if roll is None:
                    continue
                found = life is None or life.incarnation in roll.notes
                self.lives.learn(name, roll, lost=not found and name in self.told)
                known += found
            return 0 < len(rolls) == known

    def drop(self, incarnations: list[bytes]) -> bool:
        """Lets all servers forget these lives, and believes in them no more; False if not all could be told."""
        with self._calling:
            whole = self.bury(incarnations)
            if whole:
                self.lives.forget(incarnations)
            return whole

    def bury(self, incarnations: list[bytes]) -> bool:
        """Lets all servers forget these lives, as far as they can be reached; whether all could."""
        rolls = self._rolls()
        told = [self.servers.on(node, self._soon(), bury, name, incarnations) for node, name in rolls.items()]
        return bool(told) and None not in told

    def rolls(self) -> frozenset[bytes]:
        """The names of the rolls there are now."""
        return frozenset(self._rolls().values())

    def _call_all(self) -> tuple[bool, bool]:
        """Whether any server forgot this life, and whether all answered."""
        forgotten, rolls = False, self._rolls()
        answered = 0
        if self.life is not None:
            self.life = replace(self.life, queue=int(self.queue()))
        for node, name in rolls.items():
            roll = self.servers.on(node, self._soon(), self._call, name)
            if roll is None:
                continue
            answered += 1
            lost = roll.anew and name in self.told
            self.lives.learn(name, roll, lost)
            if self.life is not None:
                forgotten |= lost
                self.told.add(name)
        self.lives.keep(rolls.values())
        return forgotten, 0 < len(rolls) == answered

    def _call(self, connection: Connection, name: bytes) -> Roll:
        own = None
        if self.life is not None:
            if name not in self._ahead:
                self._ahead[name] = clock(connection) - _now()
            now = _now() + self._ahead[name]
            # the same for all servers, by the clock of the first: of two lives of a node all see the same as the later
            self._born = self._born or now
            ttl = round(1000 * self.ttl)
            own = Note(self.life, self._born, now + ttl, ttl)
        roll = call_roll(connection, name, own)
        self._ahead[name] = roll.now - _now()
        return roll

    def _rolls(self, deadline: Deadline = FOR_EVER) -> dict[Node, bytes]:
        """For each server that has buckets the name of its roll."""
        where = self.servers.where(HEADS, Deadline(min(deadline.at, self._soon())))
        return {node: LIVES[indices[0]] for node, indices in where.items()}

    def _soon(self) -> float:
        return time.monotonic() + self.servers.timeout


def _now() -> int:
    return int(time.monotonic() * 1000)
