"""What a folder holds when a store starts: the index, from the headers of its files."""

import logging
import os
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import xxhash

from cachestore.seal import (
    DIGEST_BYTES,
    DURABLE,
    MAGIC,
    MAX_PLANES,
    VERSION,
    CorruptBlock,
    Header,
    digest,
    header_bytes,
)
from cachestore.tiers.base import Departure
from cachestore.tiers.disk_entry import DiskEntry, room
from cachestore.tiers.disk_files import Files

FRONT = 4096
"""Bytes read of each file first: enough for the header of 80 planes."""

LONGEST = header_bytes(MAX_PLANES)
"""No header is longer."""

THREADS = 8
"""Files that are read at once."""

TOGETHER = 64
"""Files that a thread reads before it hands them on: handing over each alone would cost more than reading it."""

Front: TypeAlias = tuple[bytes, bytes, bytes, os.stat_result | None]
"""Namespace and key of a file, its first bytes, and what it is: None where it cannot be read, or is none of ours."""

_FRONT = struct.Struct("<4sHHI")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scanned:
    """The blocks found, the one written longest ago first, and those that had to go.

    `spoiled` ones are among the entries: they were durable and are no such blocks any more, and stay until another copy
    is made of a good one or they are counted as lost.
    """

    entries: list[DiskEntry]
    gone: list[Departure]
    spoiled: list[Departure]
    foreign: int
    """Bytes of the files that stay though only another release can read them."""


def scan(files: Files) -> Scanned:
    """Looks at every file that has a block's name. Those that are no such block, or are over, are removed: durable ones
    only once the store has seen to them.

    What cannot be read, and what is no plain file of this user, is left as it is. So is a durable block of another
    version of the format: whoever goes back to the release that wrote it finds it again.
    """
    files.collect()
    found: list[tuple[int, DiskEntry]] = []
    gone: list[Departure] = []
    spoiled: list[Departure] = []
    left = foreign = 0
    for namespace, key, front, seen in _fronts(files):
        if seen is None:
            left += 1
            continue
        try:
            durable = False
            try:
                header = _header(files, namespace, key, front)
                durable = bool(header.flags & DURABLE)
                entry = DiskEntry.of(namespace, key, seen.st_size, header)
            except CorruptBlock as corrupt:
                if _of_another_version(files, namespace, key, front):
                    foreign += room(seen.st_size)
                    continue
                departure = Departure(namespace, key, seen.st_size, "corrupt", durable, corrupt.reason)
                if durable:
                    spoiled.append(departure)
                    entry = DiskEntry(namespace, key, seen.st_size, durable=True)
                    found.append((seen.st_mtime_ns, entry))
                    continue
                files.remove(namespace, key)
                gone.append(departure)
                continue
            if entry.ends > time.time():
                found.append((seen.st_mtime_ns, entry))
            else:
                files.remove(namespace, key)
                gone.append(entry.departure("ttl"))
        except (OSError, CorruptBlock):
            left += 1
    if left:
        log.warning("disk tier: %d files are left alone that cannot be read or are no files of this user", left)
    if foreign:
        log.warning("disk tier: durable blocks of another version of the format take %d bytes", foreign)
    found.sort(key=lambda item: item[0])
    return Scanned([entry for _, entry in found], gone, spoiled, foreign)


def _fronts(files: Files) -> Iterator[Front]:
    """The fronts of all files that have a block's name, read ahead: a disk answers many at once as fast as one."""
    names = files.blocks()
    pending: deque[Future[list[Front]]] = deque()
    with ThreadPoolExecutor(THREADS, "cachestore-disk-scan") as threads:
        while batch := list(islice(names, TOGETHER)):
            pending.append(threads.submit(_read, files, batch))
            if len(pending) > 2 * THREADS:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _read(files: Files, names: Sequence[tuple[bytes, bytes]]) -> list[Front]:
    found: list[Front] = []
    for namespace, key in names:
        try:
            found.append((namespace, key, *files.front(namespace, key, FRONT)))
        except (OSError, CorruptBlock):
            found.append((namespace, key, b"", None))
    return found


def _of_another_version(files: Files, namespace: bytes, key: bytes, front: bytes) -> bool:
    """Whether this is the front of a durable block of another version, as far as the headers of all are alike."""
    if len(front) < _FRONT.size:
        return False
    magic, version, flags, size = _FRONT.unpack_from(front)
    if magic != MAGIC or version == VERSION or not flags & DURABLE or not DIGEST_BYTES < size <= LONGEST:
        return False
    whole = front[:size] if size <= len(front) else files.front(namespace, key, size)[0]
    return len(whole) == size and xxhash.xxh3_64_intdigest(whole[:-DIGEST_BYTES]) == int.from_bytes(
        digest(whole), "little"
    )


def _header(files: Files, namespace: bytes, key: bytes, front: bytes) -> Header:
    try:
        return Header.parse(front)
    except CorruptBlock:
        if len(front) < FRONT:
            raise
    # a longer table than most
    return Header.parse(files.front(namespace, key, LONGEST)[0])
