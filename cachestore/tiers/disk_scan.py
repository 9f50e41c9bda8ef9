"""What a folder holds when a store starts: the index, from the headers of its files."""

import logging
import time
from dataclasses import dataclass

from cachestore.seal import DURABLE, MAX_PLANES, CorruptBlock, Header, header_bytes
from cachestore.tiers.base import Departure
from cachestore.tiers.disk_files import Files
from cachestore.tiers.disk_index import DiskEntry

FRONT = 4096
"""Bytes read of each file first: enough for the header of 80 planes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scanned:
    """The blocks found, the one written longest ago first, and those that had to go."""

    entries: list[DiskEntry]
    gone: list[Departure]


def scan(files: Files) -> Scanned:
    """Looks at every file that has a block's name. Those that are no such block, or are over, are removed.

    What cannot be read, and what is no plain file of this user, is left as it is.
    """
    files.collect()
    found: list[tuple[int, DiskEntry]] = []
    gone: list[Departure] = []
    left = 0
    for namespace, key in files.blocks():
        try:
            front, seen = files.front(namespace, key, FRONT)
            durable = False
            try:
                header = _header(files, namespace, key, front)
                durable = bool(header.flags & DURABLE)
                entry = DiskEntry.of(namespace, key, seen.st_size, header)
            except CorruptBlock:
                files.remove(namespace, key)
                gone.append(Departure(namespace, key, seen.st_size, "corrupt", durable))
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
    found.sort(key=lambda item: item[0])
    return Scanned([entry for _, entry in found], gone)


def _header(files: Files, namespace: bytes, key: bytes, front: bytes) -> Header:
    try:
        return Header.parse(front)
    except CorruptBlock:
        if len(front) < FRONT:
            raise
    # a longer table than most
    return Header.parse(files.front(namespace, key, header_bytes(MAX_PLANES))[0])
