"""Who is alive, as each Redis server knows by its own clock.

Every server that has entries also has a hash of lives, so that it can be lost without the others. A node writes until
when it lives, in the server's time; who is long over is buried by whoever looks. A node that finds itself unknown where
it was known before was buried, or the server lost what it had: then it begins another life and says everything again.
"""

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from cachestore.directory.base import INCARNATION_BYTES, Earlier, Life, check_names
from cachestore.errors import InvalidArgument
from cachestore.tiers.resp import Command, Connection
from cachestore.tiers.resp_errors import Broken, checked

MOST_NUMBER = 1 << 53
"""What numbers of a note are below: milliseconds and requests."""

GRACE = 3
"""A life is buried after so many times its time to live: until then it may come back from a long pause."""

_Told = TypeVar("_Told")


@dataclass(frozen=True)
class Note:
    """A life as it is noted: when it began and until when it lasts, in milliseconds of the server's time."""

    life: Life
    born: int
    until: int
    ttl: int

    @property
    def order(self) -> tuple[int, bytes]:
        """Of two lives of one node the greater counts."""
        return self.born, self.life.incarnation

    def pack(self) -> bytes:
        """The value under its incarnation."""
        life = self.life
        return json.dumps([life.node, life.address, life.queue, self.born, self.until, self.ttl]).encode()

    def over(self, now: int) -> bool:
        """Whether nobody waits for it to come back any more."""
        return self.until + GRACE * self.ttl < now

    @classmethod
    def unpack(cls, incarnation: bytes, value: bytes) -> "Note | None":
        """What was noted; None if it is no note."""
        try:
            node, address, queue, born, until, ttl = json.loads(value)
        except (ValueError, TypeError, RecursionError):
            return None
        if len(incarnation) != INCARNATION_BYTES or not (isinstance(node, str) and isinstance(address, str)):
            return None
        # what is longer is no time, and cannot be counted with
        if not all(type(number) is int and 0 <= number < MOST_NUMBER for number in (queue, born, until, ttl)):
            return None
        try:
            check_names(node, address)
        except InvalidArgument:
            return None
        return cls(Life(node, address, incarnation, queue), born, until, ttl)


class Roll(NamedTuple):
    """What one server said: all lives it knows, its time in milliseconds, and whether it did not know one's own."""

    notes: dict[bytes, Note]
    now: int
    anew: bool


@dataclass(eq=False)
class Lives:
    """What all servers say of lives, by the name of each one's roll. Written by one thread at a time, read by many."""

    _alive: dict[bytes, dict[bytes, tuple[Life, float]]] = field(default_factory=dict)
    _noted: dict[bytes, set[bytes]] = field(default_factory=dict)
    _lost: dict[bytes, dict[bytes, tuple[Life, float]]] = field(default_factory=dict)
    """Lives that a server had lost, until their nodes are heard of again, or their time is over."""
    _earlier: dict[bytes, dict[bytes, tuple[Earlier, float]]] = field(default_factory=dict)

    def learn(self, name: bytes, roll: Roll, lost: bool = False) -> None:
        """Takes what the server with this roll says; seconds are its own, counted from now.

        One that has `lost` what it was told says nothing of those who did not tell it again yet: they go on meanwhile.
        """
        latest: dict[str, Note] = {}
        for note in roll.notes.values():
            other = latest.get(note.life.node)
            if note.until > roll.now and (other is None or other.order < note.order):
                latest[note.life.node] = note
        now = time.monotonic()
        hidden = {
            note.life.incarnation: (Earlier(note.life, goes_on), now + (note.until - roll.now) / 1000)
            for note in roll.notes.values()
            if note.until > roll.now and (later := latest[note.life.node]) is not note
            # one that was killed told nothing since another began, which has its place if it was started again
            if (goes_on := note.until - note.ttl > later.born) or note.life.address != later.life.address
        }
        alive = {note.life.incarnation: (note.life, now + (note.until - roll.now) / 1000) for note in latest.values()}
        missed = {**self._lost.get(name, {}), **(self._alive.get(name, {}) if lost else {})}
        missed = {
            incarnation: (life, until)
            for incarnation, (life, until) in missed.items()
            if life.node not in latest and until > now
        }
        self._lost = {**self._lost, name: missed}
        # whoever reads them meanwhile goes on with those it has
        self._alive = {**self._alive, name: {**missed, **alive}}
        self._earlier = {**self._earlier, name: hidden}
        self._noted = {**self._noted, name: set(roll.notes)}

    def keep(self, names: Collection[bytes]) -> None:
        """Forgets what other rolls said."""
        self._alive = {name: alive for name, alive in self._alive.items() if name in names}
        self._noted = {name: noted for name, noted in self._noted.items() if name in names}
        self._lost = {name: lost for name, lost in self._lost.items() if name in names}
        self._earlier = {name: hidden for name, hidden in self._earlier.items() if name in names}

    def forget(self, incarnations: Collection[bytes]) -> None:
        """These are over, whatever was said of them."""
        self._alive = _without(self._alive, incarnations)
        self._lost = _without(self._lost, incarnations)
        self._earlier = _without(self._earlier, incarnations)

    def find(self, incarnation: bytes) -> Life | None:
        """The life of this incarnation, if it goes on."""
        now = time.monotonic()
        for alive in self._alive.values():
            life, until = alive.get(incarnation, (None, 0.0))
            if until > now:
                return life
        return None

    def noted(self, incarnation: bytes) -> bool:
        """Whether any server knows it, alive or not."""
        return any(incarnation in noted for noted in self._noted.values())

    def all(self) -> tuple[Life, ...]:
        """All that go on, by node."""
        now = time.monotonic()
        found = {life.node: life for alive in self._alive.values() for life, until in alive.values() if until > now}
        return tuple(found[node] for node in sorted(found))

    def earlier(self) -> tuple[Earlier, ...]:
        """Those that may go on beside a later one of their name."""
        now = time.monotonic()
        lives = [each for hidden in self._earlier.values() for each in hidden.items()]
        found: dict[bytes, Earlier] = {}
        for incarnation, (each, until) in lives:
            if until > now and (incarnation not in found or each.goes_on):
                found[incarnation] = each
        return tuple(found.values())


def _without(rolls: dict[bytes, dict[bytes, _Told]], gone: Collection[bytes]) -> dict[bytes, dict[bytes, _Told]]:
    return {name: {one: told for one, told in lives.items() if one not in gone} for name, lives in rolls.items()}


def clock(connection: Connection) -> int:
    """The server's time in milliseconds."""
    return _milliseconds(connection.call("TIME"))


def call_roll(connection: Connection, name: bytes, own: Note | None) -> Roll:
    """Says that one lives, if one does, and asks who else; buries who is long over."""
    commands: list[Command] = [("TIME",), ("HGETALL", name)]
    if own is not None:
        commands = [("HSET", name, own.life.incarnation, own.pack()), *commands]
    *said, time_, lives = connection.ask(commands)
    now, known = _milliseconds(time_), checked(lives, list)
    found = {
        bytes(incarnation): Note.unpack(incarnation, value)
        for incarnation, value in zip(known[::2], known[1::2], strict=True)
    }
    notes = {incarnation: note for incarnation, note in found.items() if note and not note.over(now)}
    if len(notes) < len(found):
        bury(connection, name, [incarnation for incarnation in found if incarnation not in notes])
    return Roll(notes, now, any(checked(answer, int) == 1 for answer in said))


def bury(connection: Connection, name: bytes, incarnations: list[bytes]) -> int:
    """Forgets these lives; how many of them were known."""
    known: int = checked(connection.call("HDEL", name, *incarnations), int)
    return known


def _milliseconds(answer: object) -> int:
    try:
        seconds, micros = checked(answer, list)
        return int(seconds) * 1000 + int(micros) // 1000
    except (TypeError, ValueError):
        raise Broken("protocol") from None
