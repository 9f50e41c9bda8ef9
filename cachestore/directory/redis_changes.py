"""Who holds a block changes: records are appended to the logs of entries, for many entries at once.

Whoever takes the last holder out of an entry gives it a time to live, and looks again in the same breath; whoever puts
one in takes the time away. One of the two sees the other, however they interleave, so an entry that holds something
stays, and one that holds nothing is not there for ever. Nothing is locked, and no script is needed.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType
from typing import Any, NamedTuple

from cachestore.directory.redis_entries import RECORD_BYTES, fold, read
from cachestore.tiers.resp import Command, Connection
from cachestore.tiers.resp_errors import Refused, checked

MOST_HOLDERS = 32
"""More are not noted: a reader chooses among a few."""

LONGEST = 4 * MOST_HOLDERS * RECORD_BYTES
"""A log of more bytes is written anew."""

LINGER_MS = 10_000
"""The time to live of an entry without holders: longer than anybody hesitates between two steps of one change."""


class Change(NamedTuple):
    """What is to become of an entry: who is to be in it, if not None, and who is not."""

    add: bytes | None = None
    remove: frozenset[bytes] = frozenset()


class Outcome(Enum):
    """What became of a change."""

    DONE = "done"
    NEEDLESS = "needless"
    FULL = "full"
    REFUSED = "refused"
    AGAIN = "again"


def apply(
    connection: Connection, names: Sequence[bytes], changes: Mapping[bytes, Change], clustered: bool
) -> list[Outcome]:
    """Changes these entries; what became of each. Two round trips, seldom more."""
    outcomes: dict[bytes, Outcome] = {}
    commands: list[Command] = []
    for name, log in zip(names, read(connection, names, clustered), strict=True):
        if isinstance(log, Refused):
            outcomes[name] = Outcome.AGAIN
        elif fold(log or b"") is None or len(log or b"") > LONGEST:
            outcomes[name] = _rewrite(connection, name, changes[name])
        else:
            outcomes[name], wanted = _plan(name, log, changes[name])
            commands += wanted
    answers = [checked(answer, int, bytes, NoneType, Refused) for answer in connection.ask(commands)]
    for (_, about, *_), answer in zip(commands, answers, strict=True):
        if isinstance(answer, Refused) and isinstance(about, bytes):
            outcomes[about] = Outcome.AGAIN if answer.elsewhere else Outcome.REFUSED
    came = [
        command[1] for command, answer in zip(commands, answers, strict=True) if command[0] == "GET" and _held(answer)
    ]
    connection.ask([("PERSIST", name) for name in came])
    return [outcomes[name] for name in names]


def _plan(name: bytes, log: bytes | None, change: Change) -> tuple[Outcome, list[Command]]:
    held = fold(log or b"") or ()
    gone = [incarnation for incarnation in held if incarnation in change.remove]
    left = len(held) - len(gone)
    text = b"".join(b"-" + incarnation for incarnation in gone)
    missing = change.add is not None and change.add not in held
    if missing and left < MOST_HOLDERS:
        # one that has a time to live must not end between the two steps that follow
        rescue: list[Command] = [("PERSIST", name)] if log is not None and not held else []
        return Outcome.DONE, [*rescue, ("APPEND", name, text + b"+" + (change.add or b"")), ("PERSIST", name)]
    commands: list[Command] = [("APPEND", name, text)] if text else []
    if log is not None and not left:
        commands += [("PEXPIRE", name, LINGER_MS), ("GET", name)]
    outcome = Outcome.FULL if missing else Outcome.DONE if text else Outcome.NEEDLESS
    return outcome, commands


def _rewrite(connection: Connection, name: bytes, change: Change) -> Outcome:
    """Writes a log that is too long, or none at all, anew; it stays if it is changed meanwhile."""
    _, log = connection.ask([("WATCH", name), ("GET", name)])
    log = checked(log, bytes, NoneType, Refused)
    held = [one for one in (fold(log) or () if isinstance(log, bytes) else ()) if one not in change.remove]
    full = change.add is not None and change.add not in held and len(held) >= MOST_HOLDERS
    if change.add is not None and change.add not in held and not full:
        held.append(change.add)
    text = b"".join(b"+" + incarnation for incarnation in held)
    write: Command = ("SET", name, text) if text else ("UNLINK", name)
    done = checked(connection.ask([("MULTI",), write, ("EXEC",)])[-1], list, NoneType, Refused)
    if not isinstance(done, list):
        return Outcome.AGAIN
    return Outcome.FULL if full else Outcome.DONE


def _held(answer: Any) -> bool:
    return isinstance(answer, bytes) and bool(fold(answer))
