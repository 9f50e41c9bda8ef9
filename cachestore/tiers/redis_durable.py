"""When a block that Redis holds counts as durable.

    no        never
    wait      when `replicas` replicas have it in memory (WAIT)
    waitaof   when the server and `replicas` replicas have it on disk (WAITAOF, Redis 7.2 and later)
    aof       when the server has it on disk before it answers (appendonly yes, appendfsync always,
              also while it rewrites its file)

A block is first written with a short time to live, and loses that once it is acknowledged: what could not be made
durable leaves by itself, even if the writer dies half-way. That loss has to be acknowledged, too: where it is not, the
writer removes the block, at once or as soon as it reaches the server. Every acknowledgement is asked for on the
connection that wrote, after it wrote.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

from cachestore.block import Buffer
from cachestore.tiers.redis_blocks import (
    DURABLE_PREFIX,
    EXPIRES,
    STAMP,
    cache_name_of,
    durable_name,
    ended,
    scanned,
    stamp_of,
    write,
)
from cachestore.tiers.redis_condition import NEEDED_DURABLE, POLICY, Condition
from cachestore.tiers.redis_removal import NOTE_END, NOTE_PREFIX, end, end_over, note_name
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


class Outcome(IntEnum):
    """What became of a block that is to be durable: not so, so as it was before, or so by this put alone."""

    NOT = 0
    AS_BEFORE = 1
    ANEW = 2


def put(
    connection: Connection,
    names: Sequence[bytes],
    data: Mapping[bytes, Buffer],
    acknowledgement: Acknowledgement,
    until: float,
    doubtful: set[tuple[bytes, bytes]],
) -> list[Outcome]:
    """Writes blocks, given by their names as cache blocks; which of them are durable now.

    In `doubtful` are left, by name and stamp, those that may stay for good although they are not durable.
    """
    failed = [Outcome.NOT] * len(names)
    # a server that could not acknowledge anything now is not written to
    if not acknowledgement.given(connection, until):
        return failed
    named = [(durable_name(name), data[name]) for name in names]
    created = write(connection, named, b"NX", b"PX", GRACE_MS)
    there = [index for index, answer in enumerate(created) if answer is None]
    # one that is there may be durable already and must not become less, nor more if it is not: its time stays as it is
    written = created.copy()
    again = write(connection, [named[index] for index in there], b"XX", b"KEEPTTL")
    for index, answer in zip(there, again, strict=True):
        written[index] = answer
    if not acknowledgement.given(connection, until):
        return failed
    stamped = [(name, stamp_of(data[name])) for name in names]
    ours = {pair for pair, new in zip(stamped, created, strict=True) if new == b"OK"}
    doubtful |= ours
    # what is durable needs no second copy, and is not removed any more
    keep: list[Command] = []
    for name in names:
        keep += [("PERSIST", durable_name(name)), ("UNLINK", name, note_name(name))]
    persisted = [checked(answer, int, Refused) == 1 for answer in connection.ask(keep)[::2]]
    ours |= {pair for pair, stays in zip(stamped, persisted, strict=True) if stays}
    doubtful |= ours
    given = acknowledgement.given(connection, until)
    kept = [
        _outcome(given and answer == b"OK", stays, new is None)
        for answer, stays, new in zip(written, persisted, created, strict=True)
    ]
    doubtful -= {pair for pair, outcome in zip(stamped, kept, strict=True) if outcome}
    left = [pair for pair, outcome in zip(stamped, kept, strict=True) if pair in ours and not outcome]
    if left:
        take_back(connection, [name for name, _ in left], dict(left))
        doubtful -= set(left)
    return kept


def _outcome(good: bool, stays: bool, replaced: bool) -> Outcome:
    """`stays` if its time to live was taken away just now; one that was durable before has none."""
    if not good or not (stays or replaced):
        return Outcome.NOT
    return Outcome.ANEW if stays else Outcome.AS_BEFORE


def take_back(connection: Connection, names: Sequence[bytes], stamps: Mapping[bytes, bytes]) -> list[bool]:
    """Removes durable blocks, named as cache blocks, unless they were written since; which of them went."""
    return [end(connection, name, STAMP, stamps[name].__eq__) for name in names]


def _syncs(connection: Connection) -> bool:
    """Whether the server answers a write only once it is on disk."""
    (answer,) = connection.ask([_APPENDS])
    words = checked(answer, list)
    settings = dict(zip(words[::2], words[1::2], strict=False))
    wanted = {b"appendonly": b"yes", b"appendfsync": b"always", b"no-appendfsync-on-rewrite": b"no"}
    return wanted.items() <= settings.items()


def sweep(connection: Connection, cursor: int) -> int:
    """Looks at some of the server's names for durable blocks, and notes on such, whose time is over, and removes these.

    Where to go on.
    """
    (answer,) = connection.ask([("SCAN", cursor, "MATCH", b"cachestore:durable*", "COUNT", SWEPT)])
    following, names = scanned(answer)
    durable = [name for name in names if name.startswith(DURABLE_PREFIX)]
    notes = [name for name in names if name.startswith(NOTE_PREFIX)]
    connection.ask([("UNLINK", name) for name in _over(connection, notes, NOTE_END)])
    over = _over(connection, durable, EXPIRES)
    end_over(connection, list(map(cache_name_of, over[:REMOVED])))
    return following if len(over) <= REMOVED else cursor


def _over(connection: Connection, names: Sequence[bytes], place: tuple[int, int]) -> list[bytes]:
    """The names whose value says at this place that its time is over."""
    ends = connection.ask([("GETRANGE", name, *place) for name in names])
    return [name for name, told in zip(names, ends, strict=True) if isinstance(told, bytes) and ended(told)]
