"""Which slabs the client of a session knows, and the descriptors of those it hears of for the first time."""

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import NamedTuple

from cachestore.tiers.slab import Slab
from cachestore.wire import session_pb2 as wire


@dataclass(eq=False)
class SlabNumbers:
    """A number for every slab that any session of a server was told of, never used twice."""

    _numbers: "weakref.WeakKeyDictionary[Slab, int]" = field(default_factory=weakref.WeakKeyDictionary)
    _next: Iterator[int] = field(default_factory=count)
    _lock: Lock = field(default_factory=Lock)

    def of(self, slab: Slab) -> int:
        """Its number."""
        with self._lock:
            number = self._numbers.get(slab)
            if number is None:
                number = self._numbers[slab] = next(self._next)
            return number


class News(NamedTuple):
    """A slab that the client has to hear of, and the descriptor that goes with that, which is the caller's."""

    message: wire.Slab
    descriptor: int


class Known(NamedTuple):
    """A slab that the client was told of."""

    slab: weakref.ref[Slab]
    nbytes: int


@dataclass(eq=False)
class SessionSlabs:
    """The slabs that one client knows; it may write to those of `owner`, which is its session."""

    numbers: SlabNumbers
    owner: bytes
    _known: dict[int, Known] = field(default_factory=dict)
    _new: list[Slab] = field(default_factory=list)
    _number_of: "weakref.WeakKeyDictionary[Slab, int]" = field(default_factory=weakref.WeakKeyDictionary)

    def number(self, slab: Slab) -> int:
        """The number by which the client knows this slab, after the answer that is being made."""
        number = self._number_of.get(slab)
        if number is None:
            number = self._number_of[slab] = self.numbers.of(slab)
            # weak: memory that the tier gives up must not wait for this client
            self._known[number] = Known(weakref.ref(slab), slab.size)
            self._new.append(slab)
        return number

    def news(self) -> list[News]:
        """What has to be told with this answer. OSError if a slab was closed meanwhile."""
        new, self._new = self._new, []
        told: list[News] = []
        try:
            for slab in new:
                told.append(self._told(slab))
        except OSError:
            for one in told:
                os.close(one.descriptor)
            raise
        return told

    def gone(self) -> list[int]:
        """The slabs that the client knows and that are given up; it is told once."""
        gone = list(self.untold())
        for number in gone:
            del self._known[number]
        return gone

    def untold(self) -> dict[int, int]:
        """Bytes, by number, of the slabs that are given up and that the client may map still: it was not told yet."""
        return {number: nbytes for number, (slab, nbytes) in list(self._known.items()) if slab() is None}

    def _told(self, slab: Slab) -> News:
        writable = slab.owner == self.owner
        if not writable:
            # it has blocks that others read, so its writer has mapped it by now
            slab.protect()
        descriptor = slab.writable() if writable else slab.readable()
        return News(wire.Slab(number=self.number(slab), bytes=slab.size, writable=writable), descriptor)
