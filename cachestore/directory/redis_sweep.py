"""Looks through entries that nobody asks for, a few at a time."""

from typing import NamedTuple

from cachestore.directory.redis_entries import ALL_HEADS, LIVES, NAMED_BYTES, PREFIX, fold, read
from cachestore.directory.redis_lives import call_roll
from cachestore.tiers.redis_blocks import scanned
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_errors import Refused, checked


class Swept(NamedTuple):
    """Where to go on, who is in which entries, and which entries hold nothing and would stay for ever."""

    cursor: int
    holders: dict[bytes, tuple[bytes, ...]]
    empty: list[bytes]


def sweep(connection: Connection, cursor: int, count: int, clustered: bool, rolls: frozenset[bytes]) -> Swept:
    """Looks at about `count` names of a server; `rolls` are those that lives are noted in now."""
    (answer,) = connection.ask([("SCAN", cursor, "MATCH", PREFIX + b"*", "COUNT", count)])
    following, names = scanned(answer)
    for name in names:
        if name in LIVES and name not in rolls:
            # of a time when slots lay otherwise: who is over is taken out of it, and it goes with the last one
            call_roll(connection, name, None)
    entries = [name for name in names if name[:-NAMED_BYTES] in ALL_HEADS]
    holders: dict[bytes, tuple[bytes, ...]] = {}
    odd: list[bytes] = []
    for name, log in zip(entries, read(connection, entries, clustered), strict=True):
        if log is None or isinstance(log, Refused):
            continue
        held = fold(log)
        if held:
            holders[name] = held
        else:
            odd.append(name)
    lifetimes = connection.ask([("PTTL", name) for name in odd])
    empty = [name for name, left in zip(odd, lifetimes, strict=True) if checked(left, int, Refused) == -1]
    return Swept(following, holders, empty)
