"""The blocks of one read, straight from the store's memory."""

import time
from collections.abc import Sequence

from cachestore.block import Buffer, Into
from cachestore.deadline import Deadline
from cachestore.seal import ENCRYPTED, CorruptBlock, Header
from cachestore.service.shared.filling import filled
from cachestore.service.shared.mapped import Places
from cachestore.service.transport import Asked, Broken
from cachestore.store.base import Loaded
from cachestore.store.handing import Handed
from cachestore.store.local_reading import decoded
from cachestore.store.reading import LOOK_AHEAD
from cachestore.wire import store_pb2 as wire


class SharedSource:
    """Follows `cachestore.service.transport.Source`; `places` are those of the blocks from `first` on."""

    def __init__(
        self,
        asked: Asked,
        namespace: bytes,
        granted: wire.Granted,
        asked_at: float,
        first: int,
        places: Places,
        deadline: Deadline,
    ) -> None:
        self._asked = asked
        self._namespace = namespace
        self._granted = granted
        self._leased = sum(run.blocks for run in granted.runs)
        # counted from when it was asked for: the store's own end is later
        self._ends = asked_at + granted.lease_ms / 1000
        self._first = first
        self._places = places
        self._deadline = deadline
        self._ahead: dict[int, Header] = {}
        self._tier = _tier_of(granted, first)

    @property
    def lease(self) -> bytes:
        return self._granted.lease

    def load(self, number: int, into: Buffer | None) -> Loaded | None:
        if number >= self._leased or not self._deadline.remaining():
            return None
        if number - self._first >= len(self._places):
            raise Broken  # in a tier below: the store has to fetch it
        place = self._places[number - self._first]
        try:
            header = self._header(number)
            block = decoded(header, place.bytes[header.size :], self._asked.part, into)
        except CorruptBlock:
            if place.current:
                raise
            return None
        if not place.current:
            return None
        if time.monotonic() >= self._ends:
            raise Broken  # unless somebody renewed the lease, which the store knows
        return Loaded(block, self._tier)

    def fill(self, number: int, into: Sequence[Into | Handed]) -> int:
        place = number - self._first
        if place >= min(len(self._places), self._leased - self._first) or not self._deadline.remaining():
            return 0
        came = filled(self._places[place:], self._asked, self._namespace, number, into)
        return came if time.monotonic() < self._ends else 0

    def close(self) -> None:
        """Nothing: the places are forgotten with the source."""

    def _header(self, number: int) -> Header:
        if number not in self._ahead:
            # parsed in one go: between two blocks' bytes no cache would still have what that takes
            self._ahead = {number: self._parsed(number)}
            for further in range(number + 1, min(number + LOOK_AHEAD, self._first + len(self._places))):
                try:
                    self._ahead[further] = self._parsed(further)
                except CorruptBlock:
                    break  # found again when it is its turn
        return self._ahead.pop(number)

    def _parsed(self, number: int) -> Header:
        chain = self._asked.chain
        header = Header.parse(self._places[number - self._first].bytes)
        header.check_identity(self._namespace, chain.keys[number], chain.fingerprint)
        if header.flags & ENCRYPTED:
            raise CorruptBlock("codec")
        return header


def _tier_of(granted: wire.Granted, number: int) -> str:
    """The tier that held this block when it was leased."""
    for run in granted.runs:
        if number < run.blocks:
            return run.tier
        number -= run.blocks
    return ""
