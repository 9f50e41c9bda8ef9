"""A read in this process that begins with the planes of blocks that are being written."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Self

from cachestore.block import Buffer, Part
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.seal import CorruptBlock
from cachestore.store.base import Loaded, Provisional, Taker
from cachestore.store.checks import NOTHING_TO_FILL, TAKEN_LATER
from cachestore.store.local_reading import LocalReading
from cachestore.store.provisional import Began, Ended, Following, Wrote, sight
from cachestore.store.received import Received


class ProvisionalReading:
    """Follows `cachestore.store.base.Reading`; `begin` opens the ordinary reading, given what was received by then."""

    def __init__(
        self,
        following: Following,
        part: Part,
        into: Sequence[Buffer] | None,
        deadline: Deadline,
        begin: Callable[[Mapping[int, Received]], LocalReading],
    ) -> None:
        self._following = following
        self._part = part
        self._into = into
        self._deadline = deadline
        self._begin = begin
        self._received: dict[int, Received] = {}
        self._planes = self._follow()
        self._reading: LocalReading | None = None
        self._closed = False
        self.came = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def planes(self) -> Iterator[Provisional]:
        return self._planes

    def __iter__(self) -> Iterator[Loaded]:
        for _ in self._planes:
            pass
        if self._reading is None and not self._closed and self._deadline.remaining():
            self._reading = self._begin(self._received)
        if self._reading is not None:
            yield from self._reading

    def fill(self, taker: Taker | None = None) -> int:
        if taker is not None:
            raise InvalidArgument(TAKEN_LATER)
        if self._into is None:
            raise InvalidArgument(NOTHING_TO_FILL)
        for _ in self:
            self.came += 1
        return self.came

    def close(self) -> None:
        """Settles every block if the ordinary reading began, and ends. Closing twice is allowed."""
        self._closed = True
        self._planes.close()
        if self._reading is not None:
            self._reading.close()

    def _follow(self) -> Generator[Provisional, None, None]:
        with closing(iter(self._following)) as heard:
            for news in heard:
                match news:
                    case Began(number, planes):
                        into = None if self._into is None else self._into[number]
                        self._received[number] = Received(planes, self._part, into)
                    case Wrote():
                        yield from self._wrote(news)
                    case Ended(number, published=False):
                        del self._received[number]

    def _wrote(self, wrote: Wrote) -> Iterator[Provisional]:
        received = self._received[wrote.number]
        for planes in wrote.runs:
            for number, row in zip(planes, wrote.block.stored(planes), strict=True):
                looked = 0
                while number in received.planes and (seen := sight(self._following.tiered, wrote.block)) is not None:
                    try:
                        out = received.take(number, row, seen.payload[row.offset : row.offset + row.stored_bytes])
                    except CorruptBlock:
                        if seen.current or seen.generation == looked:
                            break  # nothing that its writer meant to show; what is published decides
                        # it may have been moved meanwhile; where it lies as before, looking again shows nothing else
                        looked = seen.generation
                        continue
                    yield Provisional(wrote.number, number, received.planes[number], out)
                    break
