"""How a directory is written in Redis: names, records, and the questions about many entries at once.

An entry is a string `cachestore:directory:{tag}` and 24 raw bytes: 8 of the namespace, 16 of the key. The tag stands
for one of 256 buckets, so that one MGET can ask for all entries of a bucket in a Redis Cluster, too, and is chosen so
that the buckets lie evenly over its slots. The value is a log: each record is "+" or "-" and the incarnation that holds
the block or no longer does. To hold is to APPEND, so that writers never overtake each other.

An entry with holders has no time to live, since under `volatile-lru` what has one may be evicted.
"""

from binascii import crc_hqx
from collections.abc import Hashable, Sequence
from types import NoneType
from typing import Any

from cachestore.directory.base import INCARNATION_BYTES
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_errors import Broken, Refused, checked

PREFIX = b"cachestore:directory:"
BUCKETS = 256
SLOTS = 16384
"""Of any Redis Cluster."""

RECORD_BYTES = 1 + INCARNATION_BYTES
NAMESPACE_BYTES, KEY_BYTES = 8, 16
"""As much of both as an entry is named by: enough that nobody finds two of equal names."""

NAMED_BYTES = NAMESPACE_BYTES + KEY_BYTES

AT_ONCE = 1000
"""Entries in one MGET, so that the server is never busy for long."""


def _tags() -> list[bytes]:
    """For each bucket the first number whose slot lies in the bucket's part of all slots."""
    found: dict[int, bytes] = {}
    for number in range(10_000):
        tag = b"%04d" % number
        # as in redis.io/docs/reference/cluster-spec: CRC16/XMODEM of what stands in the braces
        found.setdefault(crc_hqx(tag, 0) % SLOTS * BUCKETS // SLOTS, tag)
    return [found[bucket] for bucket in range(BUCKETS)]


HEADS = [PREFIX + b"{%b}" % tag for tag in _tags()]
ALL_HEADS = frozenset(HEADS)
ENTRY_BYTES = len(HEADS[0]) + NAMED_BYTES

LIVES = [PREFIX + b"lives:{%b}" % tag for tag in _tags()]
"""Where lives are noted, on each server under its first bucket."""


def entry_name(namespace: bytes, key: bytes) -> bytes:
    """The name of a block's entry."""
    return HEADS[key[0]] + namespace[:NAMESPACE_BYTES] + key[:KEY_BYTES]


def fold(log: bytes) -> tuple[bytes, ...] | None:
    """The incarnations that hold the block by this log, in the order in which they said so; None if it is no log."""
    if len(log) % RECORD_BYTES:
        return None
    held: dict[bytes, None] = {}
    for at in range(0, len(log), RECORD_BYTES):
        incarnation = log[at + 1 : at + RECORD_BYTES]
        if log[at] == ord("+"):
            held[incarnation] = None
        elif log[at] == ord("-"):
            held.pop(incarnation, None)
        else:
            return None
    return tuple(held)


def grouped(marks: Sequence[Hashable], clustered: bool) -> list[list[int]]:
    """The indices of entries in groups that one MGET may ask for: in a cluster those of equal marks."""
    if not clustered:
        return [list(range(start, min(start + AT_ONCE, len(marks)))) for start in range(0, len(marks), AT_ONCE)]
    groups: dict[Hashable, list[int]] = {}
    for index, mark in enumerate(marks):
        groups.setdefault(mark, []).append(index)
    return list(groups.values())


def multi_get(names: Sequence[bytes]) -> bytes:
    """Asks for the logs of entries of one group."""
    # all names are of one length
    between = b"\r\n$%d\r\n" % ENTRY_BYTES
    return b"*%d\r\n$4\r\nMGET%b%b\r\n" % (len(names) + 1, between, between.join(names))


def logs(answer: Any, count: int) -> list[bytes | Refused | None]:
    """What MGET says of so many entries; Refused for each if another server has them now."""
    found: list[bytes | Refused | None] | Refused = checked(answer, list, Refused)
    if isinstance(found, Refused):
        return [found] * count
    if len(found) != count:
        raise Broken("protocol")
    if not set(map(type, found)) <= {bytes, NoneType}:
        raise Broken("protocol")
    return found


def read(connection: Connection, names: Sequence[bytes], clustered: bool) -> list[bytes | Refused | None]:
    """The logs of these entries, in one round trip."""
    groups = grouped([name[:-NAMED_BYTES] for name in names], clustered)
    connection.send([b"".join(multi_get([names[index] for index in group]) for group in groups)])
    found: list[bytes | Refused | None] = [None] * len(names)
    for group, answer in zip(groups, connection.answers(len(groups)), strict=True):
        for index, log in zip(group, logs(answer, len(group)), strict=True):
            found[index] = log
    return found
