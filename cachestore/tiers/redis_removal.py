"""Blocks that leave Redis because a store says so, and what stays in the place of a durable one: a note.

Redis does not tell who took a block that is missing. Its run id is another one after every restart that kept all, and
the same after FLUSHALL; a name written once at the start would tell of the loss of everything, and not of what an older
file, another policy or a hand took away. So who removes a durable block leaves a note beside it, also where its time
was over: one that is missing without a note is lost. A note carries no time to live, since what has one may be evicted.
It says itself when its time is over, and is swept then: until that everybody who counts on the block has looked.
"""

import time
from collections.abc import Callable, Sequence
from enum import Enum
from types import NoneType
from typing import Any

from cachestore.tiers.redis_blocks import (
    DURABLE_PREFIX,
    EXPIRES,
    cache_name,
    durable_name,
    ended,
    key_of,
    pattern,
    scanned,
    stays,
)
from cachestore.tiers.resp import Command, Connection
from cachestore.tiers.resp_errors import Refused, checked

NOTE_PREFIX = b"cachestore:durable-removed:"

NOTE_SECONDS = 3600.0
"""How long a note stays."""

NOTE_END = (0, 7)
"""First and last byte of a note's end, in milliseconds since 1970: all that it says."""

SCANNED = 1000


class Fate(Enum):
    """What became of a durable block."""

    THERE = "there"
    REMOVED = "removed"
    LOST = "lost"


def note_name(name: bytes) -> bytes:
    """The name of the note on a durable block, from its name as a cache block."""
    return b"%b{%b}" % (NOTE_PREFIX, name)


def noted(name: bytes) -> Command:
    """Leaves a note on a durable block, named as a cache block."""
    ends = round((time.time() + NOTE_SECONDS) * 1000)
    return "SET", note_name(name), ends.to_bytes(8, "little")


def fates(connection: Connection, names: Sequence[bytes]) -> list[Fate | None]:
    """What became of durable blocks, named as cache blocks, that were there once; None where that is not known."""
    found = _asked(connection, names)
    again = [name for name, fate in zip(names, found, strict=True) if fate is Fate.LOST]
    if not again:
        return found
    # between the two questions about it somebody may have removed it, or put it again
    sure = iter(_asked(connection, again))
    return [next(sure) if fate is Fate.LOST else fate for fate in found]


def _asked(connection: Connection, names: Sequence[bytes]) -> list[Fate | None]:
    asked: list[Command] = []
    for name in names:
        asked += [("GETRANGE", durable_name(name), *EXPIRES), ("EXISTS", note_name(name))]
    answers = [checked(answer, bytes, int, Refused) for answer in connection.ask(asked)]
    return [_fate(ends, note) for ends, note in zip(answers[::2], answers[1::2], strict=True)]


def _fate(ends: bytes | Refused, note: int | Refused) -> Fate | None:
    if stays(ends):
        return Fate.THERE
    if isinstance(ends, Refused) or isinstance(note, Refused):
        return None
    # one whose time is over is nobody's loss
    return Fate.REMOVED if ends or note else Fate.LOST


def unlink(connection: Connection, names: Sequence[bytes]) -> list[bool | None]:
    """Removes cache blocks alone; which there were, None where that is not known."""
    return [_there(answer) for answer in connection.ask([("UNLINK", name) for name in names])]


def remove(connection: Connection, names: Sequence[bytes]) -> list[bool | None]:
    """Removes cache blocks and durable ones, named as such; which there were, None where that is not known."""
    questions: list[Command] = []
    for name in names:
        questions += [("UNLINK", name), ("EXISTS", durable_name(name))]
    asked = connection.ask(questions)
    found = [_there(cache, durable) for cache, durable in zip(asked[::2], asked[1::2], strict=True)]
    durable = [index for index, answer in enumerate(asked[1::2]) if answer == 1]
    removals: list[Command] = []
    for index in durable:
        removals += [noted(names[index]), ("UNLINK", durable_name(names[index]))]
    for index, answer in zip(durable, connection.ask(removals)[1::2], strict=True):
        # another may have been faster
        found[index] = _there(asked[2 * index], answer)
    return found


def _there(*answers: Any) -> bool | None:
    counts = [checked(answer, int, Refused) for answer in answers]
    return None if any(isinstance(count, Refused) for count in counts) else any(counts)


def clear(connection: Connection, namespace: bytes, cursor: int) -> tuple[int, set[bytes]] | None:
    """Removes some of the blocks of a namespace; where to go on, and their keys. None if one may still be there."""
    (answer,) = connection.ask([("SCAN", cursor, "MATCH", pattern(namespace), "COUNT", SCANNED)])
    following, names = scanned(answer)
    ours = {name: key for name in names if (key := key_of(name)) is not None}
    notes = [noted(cache_name(namespace, key)) for name, key in ours.items() if name.startswith(DURABLE_PREFIX)]
    answers = connection.ask([*notes, *(("UNLINK", name) for name in ours)])
    if None in map(_there, answers[len(notes) :]):
        return None
    return following, set(ours.values())


def end(connection: Connection, name: bytes, place: tuple[int, int], over: Callable[[bytes], bool]) -> bool:
    """Removes a durable block, named as a cache block, if these bytes of it say so; whether it went.

    It stays if it is written anew meanwhile.
    """
    durable = durable_name(name)
    _, told = connection.ask([("WATCH", durable), ("GETRANGE", durable, *place)])
    if isinstance(checked(told, bytes, Refused), Refused) or len(told) <= place[1] - place[0] or not over(told):
        connection.call("UNWATCH")
        return False
    answers = connection.ask([("MULTI",), noted(name), ("UNLINK", durable), ("EXEC",)])
    done = checked(answers[-1], list, NoneType, Refused)
    if isinstance(done, Refused) and done.code == "EXECABORT":
        # a server without room takes no note, nor any transaction: but nobody writes there anew either
        (gone,) = connection.ask([("UNLINK", durable)])
        return bool(checked(gone, int, Refused) == 1)
    return isinstance(done, list) and done[-1:] == [1]


def end_over(connection: Connection, names: Sequence[bytes]) -> list[bool]:
    """Removes durable blocks, named as cache blocks, whose time is over; which of them went."""
    return [end(connection, name, EXPIRES, ended) for name in names]
