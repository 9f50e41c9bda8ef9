"""When a block that Redis holds counts as durable.

    no        never
    wait      when `replicas` replicas have it in memory (WAIT)
    waitaof   when the server and `replicas` replicas have it on disk (WAITAOF, Redis 7.2 and later)
    aof       when the server has it on disk before it answers (appendonly yes, appendfsync always,
              also while it rewrites its file)

A block is first written with a short time to live, and loses that once it is acknowledged: what could not be made
durable leaves by itself, even if the writer dies half-way. Every acknowledgement is asked for on the connection that
wrote, after it wrote.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from cachestore.block import Buffer
from cachestore.tiers.redis_blocks import DURABLE_PREFIX, EXPIRES, durable_name, end, ended, scanned, write
from cachestore.tiers.redis_condition import NEEDED_DURABLE, POLICY, Condition
from cachestore.tiers.resp import Command, Connection
from cachestore.tiers.resp_errors import Refused, checked

Durability: TypeAlias = Literal["no", "wait", "waitaof", "aof"]

_WAITAOF: Command = ("WAITAOF", 1, 0, 1)
_APPENDS: Command = ("CONFIG", "GET", "*append*")

GRACE_MS = 60_000
"""How long a block may stay that is not acknowledged yet; longer than any put takes."""


@dataclass(frozen=True)
class Acknowledgement:
    """How a server is asked whether all that was written over a connection so far survives."""

    how: Durability
    replicas: int
    timeout: float

    @property
    def commands(self) -> tuple[Command, ...]:
        """What must be allowed for it."""
        asking: dict[str, Command] = {"wait": ("WAIT", 0, 1), "waitaof": _WAITAOF, "aof": _APPENDS}
        return () if self.how == "no" else (*NEEDED_DURABLE, asking[self.how])

    def lacking(self, connection: Connection) -> str:
        """Which setting the server lacks to acknowledge anything; "" if none."""
        if self.how == "aof" and not _syncs(connection):
            return "appendonly yes, appendfsync always and no-appendfsync-on-rewrite no"
        if self.how == "waitaof":
            (answer,) = connection.ask([_WAITAOF])
            if isinstance(checked(answer, list, Refused), Refused):
                return "appendonly yes, and Redis 7.2 or newer"
        return ""

    def short(self, condition: Condition) -> str:
        """How the server falls short of replicas, or has too many; "" if it does not."""
        if condition.replicas < self.replicas:
            return f"{self.replicas} replicas, it has {condition.replicas}"
        if self.how != "no" and condition.clustered and condition.replicas and not self.replicas:
            return 'replicas that are asked ("wait"): one that is not may take over without the block'
        return ""

    def given(self, connection: Connection, until: float) -> bool:
        """Whether all that was written over this connection survives; False if that is not known in time."""
        # another policy would drop what must stay, and a replica what it was given
        condition = Condition.of(connection)
        if condition.policy != POLICY or not condition.primary or self.short(condition):
            return False
        if self.how == "aof":
            return _syncs(connection)
        wait = min(self.timeout, until - time.monotonic())
        if wait <= 0:
            return False
        # a little less than the time there is, so that the answer comes within it
        command: Command = ("WAIT", self.replicas) if self.how == "wait" else ("WAITAOF", 1, self.replicas)
        (answer,) = connection.ask([(*command, max(1, int(900 * wait)))], silent=wait)
        counts = checked(answer, int, list, Refused)
        if self.how == "wait":
            return isinstance(counts, int) and counts >= self.replicas
        match counts:
            case [int(local), int(replicas)]:
                return local >= 1 and replicas >= self.replicas
        return False


SWEPT = 1000
REMOVED = 64
"""What one sweep looks at and removes at most, so that nobody waits for it."""


def put(
    connection: Connection,
    names: Sequence[bytes],
    data: Mapping[bytes, Buffer],
    acknowledgement: Acknowledgement,
    until: float,
) -> list[bool]:
    """Writes blocks, given by their names as cache blocks; which of them are durable now."""
    # a server that could not acknowledge anything now is not written to
    if not acknowledgement.given(connection, until):
        return [False] * len(names)
    named = [(durable_name(name), data[name]) for name in names]
    created = write(connection, named, b"NX", b"PX", GRACE_MS)
    there = [index for index, answer in enumerate(created) if answer is None]
    # one that is there may be durable already and must not become less: it is replaced without a time to live
    written = created.copy()
    for index, answer in zip(there, write(connection, [named[index] for index in there]), strict=True):
        written[index] = answer
    if not acknowledgement.given(connection, until):
        return [False] * len(names)
    # what is durable needs no second copy
    keep = [command for name in names for command in (("PERSIST", durable_name(name)), ("UNLINK", name))]
    persisted = [checked(answer, int, Refused) == 1 for answer in connection.ask(keep)[::2]]
    if not acknowledgement.given(connection, until):
        return [False] * len(names)
    # one that was replaced has no time to live that could be taken away
    return [
        answer == b"OK" and (stays or new is None)
        for answer, stays, new in zip(written, persisted, created, strict=True)
    ]


def _syncs(connection: Connection) -> bool:
    """Whether the server answers a write only once it is on disk."""
    (answer,) = connection.ask([_APPENDS])
    words = checked(answer, list)
    settings = dict(zip(words[::2], words[1::2], strict=False))
    wanted = {b"appendonly": b"yes", b"appendfsync": b"always", b"no-appendfsync-on-rewrite": b"no"}
    return wanted.items() <= settings.items()


def sweep(connection: Connection, cursor: int) -> int:
    """Looks at some of the server's names for durable blocks whose time is over, and removes these; where to go on."""
    (answer,) = connection.ask([("SCAN", cursor, "MATCH", DURABLE_PREFIX + b"*", "COUNT", SWEPT)])
    following, names = scanned(answer)
    ends = connection.ask([("GETRANGE", name, *EXPIRES) for name in names]) if names else []
    over = [name for name, expires in zip(names, ends, strict=True) if isinstance(expires, bytes) and ended(expires)]
    end(connection, over[:REMOVED])
    return following if len(over) <= REMOVED else cursor
