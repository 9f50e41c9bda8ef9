"""What is said over a connection to keep blocks in Redis: names, questions, values.

A cache block is `cachestore:block:<namespace>:<key>`, in hexadecimal, with a Redis time to live. A durable one is
`cachestore:durable:{<its name as a cache block>}` and has none, because under `volatile-lru` what has one may be
evicted; its end is in its sealed header alone. The braces put both names on one node of a cluster.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from cachestore.block import Buffer
from cachestore.seal import MAGIC, VERSION, CorruptBlock, header_bytes
from cachestore.tiers.base import Found
from cachestore.tiers.batches import batches
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_errors import Broken, Refused, checked
from cachestore.tiers.spare import Memory

BATCH_BYTES = 4 << 20
"""Blocks on their way at once while the ones before are answered."""

PREFIX = b"cachestore:block:"
DURABLE_PREFIX = b"cachestore:durable:"

EXPIRES = (168, 175)
"""First and last byte of `expires` in a sealed header."""

STAMP = (144, 167)
"""First and last byte of `writer` and `sequence`, which no two puts have in common."""

_VERSION, _SIZE, _PAYLOAD = slice(4, 6), slice(8, 12), slice(136, 144)
_SMALLEST = header_bytes(1)
_ANY_KEY = b"[0-9a-f]" * 64


def cache_name(namespace: bytes, key: bytes) -> bytes:
    """The name of a cache block."""
    return b"%b%b:%b" % (PREFIX, namespace.hex().encode(), key.hex().encode())


def durable_name(name: bytes) -> bytes:
    """The name of a durable block, from its name as a cache block."""
    return b"%b{%b}" % (DURABLE_PREFIX, name)


def cache_name_of(durable: bytes) -> bytes:
    """The name as a cache block of what goes by this name as a durable one."""
    return durable.removeprefix(DURABLE_PREFIX)[1:-1]


def pattern(namespace: bytes) -> bytes:
    """A glob for all names of a namespace, cache and durable, and notes on durable ones."""
    return b"cachestore:*%b:%b*" % (namespace.hex().encode(), _ANY_KEY)


def key_of(name: bytes) -> bytes | None:
    """The key of the block that goes by this name; None if none of ours does."""
    match = re.fullmatch(rb"(?:cachestore:durable:\{)?cachestore:block:[0-9a-f]{64}:([0-9a-f]{64})\}?", name)
    return bytes.fromhex(match[1].decode()) if match else None


def ended(expires: bytes) -> bool:
    """Whether the time that a sealed header's `expires` names is over."""
    return 0 < int.from_bytes(expires, "little") <= time.time() * 1000


def present(connection: Connection, names: Sequence[bytes], durable: bool) -> list[bool]:
    """Which names are there as cache blocks or, with `durable`, as durable ones that have time left. One round trip."""
    asked = b"".join(b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(name), name) for name in names)
    if not durable:
        connection.send([asked])
        return [checked(answer, int, Refused) == 1 for answer in connection.answers(len(names))]
    ends = b"".join(
        b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b\r\n$3\r\n%d\r\n$3\r\n%d\r\n" % (len(name), name, *EXPIRES)
        for name in map(durable_name, names)
    )
    connection.send([asked, ends])
    answers = [checked(answer, int, bytes, Refused) for answer in connection.answers(2 * len(names))]
    return [there == 1 or stays(end) for there, end in zip(answers[: len(names)], answers[len(names) :], strict=True)]


def stays(end: Any) -> bool:
    """Whether this answer to a question for `EXPIRES` is that of a durable block which has time left."""
    if isinstance(end, Refused):
        # what is no string is there as well: reading it tells why it is no block
        return end.code == "WRONGTYPE"
    return len(end) > 0 and not ended(end)


def read(connection: Connection, names: Sequence[bytes], values: list[Found], memory: Memory, largest: int) -> int:
    """Appends the values of the names that `values` has none of yet, as far as this connection gets; how many then."""

    def judge(front: memoryview, length: int) -> str:
        return misfit(front, length, largest)

    for value in connection.values(names[len(values) :], memory.take, judge):
        if isinstance(value, Refused):
            checked(value, Refused)
            values.append(CorruptBlock("type") if value.code == "WRONGTYPE" else None)
        else:
            values.append(value)
    return len(values)


def misfit(front: memoryview, length: int, largest: int) -> str:
    """Why a value of `length` bytes that begins like this is no sealed block; "" if it may be one."""
    if length > largest:
        return "size"
    if length < _SMALLEST:
        return "truncated"
    if front[: len(MAGIC)] != MAGIC:
        return "foreign"
    if front[_VERSION] != VERSION.to_bytes(2, "little"):
        # only whoever reads its header can say whether it is one of another release
        return ""
    size, payload = (int.from_bytes(front[place], "little") for place in (_SIZE, _PAYLOAD))
    return "truncated" if length < size + payload else "size" if length > size + payload else ""


def write(connection: Connection, blocks: Sequence[tuple[bytes, Buffer]], *options: bytes | int) -> list[Any]:
    """Sets values under names; the answers. A batch is on its way while the one before is answered."""
    tail = b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in map(_bytes, options))
    answers: list[Any] = []
    waiting = 0
    for batch in batches(blocks, BATCH_BYTES):
        pieces: list[bytes | Buffer] = []
        for name, data in batch:
            head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (3 + len(options), len(name), name, data.nbytes)
            pieces += [head, data, b"\r\n" + tail]
        connection.send(pieces)
        answers += connection.answers(waiting, more=True)
        waiting = len(batch)
    answers += connection.answers(waiting)
    return [checked(answer, bytes, NoneType, Refused) for answer in answers]


def put(connection: Connection, names: Sequence[bytes], data: Mapping[bytes, Buffer], lifetime: int) -> list[bool]:
    """Writes cache blocks that live for `lifetime` milliseconds; which of them are there now."""
    answers = write(connection, [(name, data[name]) for name in names], b"PX", lifetime)
    return [answer == b"OK" for answer in answers]


def prolong(connection: Connection, names: Sequence[bytes], lifetimes: Mapping[bytes, int]) -> list[bool]:
    """Lets cache blocks live for so many milliseconds from now on, none shorter than before; which there are."""
    left = [checked(answer, int, Refused) for answer in connection.ask([("PTTL", name) for name in names])]
    # no time to live at all is -1: whoever took it away had a reason
    short = [
        name for name, ms in zip(names, left, strict=True) if not isinstance(ms, Refused) and 0 <= ms < lifetimes[name]
    ]
    for answer in connection.ask([("PEXPIRE", name, lifetimes[name]) for name in short]):
        checked(answer, int, Refused)
    return [not isinstance(ms, Refused) and ms != -2 for ms in left]


def scanned(answer: Any) -> tuple[int, list[bytes]]:
    """What SCAN says: where to go on, and names."""
    try:
        cursor, names = checked(answer, list)
        return int(cursor), [bytes(name) for name in names]
    except (TypeError, ValueError):
        raise Broken("protocol") from None


def over(block: Buffer) -> bool:
    """Whether the time of this sealed block is over."""
    return ended(block[EXPIRES[0] : EXPIRES[1] + 1].tobytes())


def ends_at(block: Buffer) -> float:
    """When the time of this sealed block is over, in seconds since 1970; infinite if never."""
    expires = int.from_bytes(block[EXPIRES[0] : EXPIRES[1] + 1].tobytes(), "little")
    return expires / 1000 if expires else math.inf


def stamp_of(block: Buffer) -> bytes:
    """Who wrote this sealed block, and when."""
    return block[STAMP[0] : STAMP[1] + 1].tobytes()


def _bytes(value: bytes | int) -> bytes:
    return value if isinstance(value, bytes) else b"%d" % value
