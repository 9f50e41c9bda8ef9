"""The C library's allocator in a process that passes messages of a megabyte to and fro all day.

glibc gives the memory of each such message back to the system, which has to make it anew, page by page, for the next
one: that takes as long as all copies of the message together. The setting holds for the whole process. So it is for
processes that are the store's own; whoever has a client inside an engine chooses for himself, by calling this or by the
environment (`MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=268435456`).
"""

import ctypes

# of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

LARGEST = 32 << 20
"""Bytes of the largest piece that is kept: as much as glibc allows."""

KEPT = 256 << 20
"""Bytes that may lie free at the end of a heap."""


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees for what it needs next; False where the C library has no such setting."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, KEPT))
