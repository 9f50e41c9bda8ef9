"""Free space as extents of addresses: best fit, joined again when they are freed.

Best fit leaves large extents whole for large blocks, and takes from an empty slab only when nothing smaller will do,
so that sparse slabs run empty.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field


@dataclass
class Extents:
    """The free extents of an address space, all multiples of `unit`; neighbours are always joined.

    It begins empty; `give` adds to it. What lies between two ranges that were given is never joined over.
    """

    unit: int
    free: int = 0
    """Bytes not taken, in however many pieces."""
    _length: dict[int, int] = field(default_factory=dict)
    """By where an extent begins."""
    _start: dict[int, int] = field(default_factory=dict)
    """By where an extent ends."""
    _sizes: list[tuple[int, int]] = field(default_factory=list)
    """(length, start) of each, sorted."""

    def rounded(self, nbytes: int) -> int:
        """`nbytes` as whole units."""
        return (nbytes + self.unit - 1) // self.unit * self.unit

    def take(self, nbytes: int) -> int | None:
        """The start of the tightest extent of at least `nbytes`, lowest first; None if no single one is left."""
        return next(iter(self.take_row(nbytes, 1)), None)

    def take_row(self, nbytes: int, most: int) -> range:
        """Where up to `most` takes of `nbytes` each find room, as many as lie in one extent, one behind the other."""
        need = self.rounded(nbytes)
        index = bisect_left(self._sizes, (need, -1))
        if index == len(self._sizes):
            return range(0)
        length, start = self._sizes[index]
        # what is left of the tightest extent is the tightest still, if it is large enough
        end = start + min(most, length // need) * need
        self._remove(index)
        if end < start + length:
            self._insert(end, start + length - end)
        return range(start, end, need)

    def claim(self, start: int) -> int:
        """Takes the whole extent that begins at `start`; its length."""
        length = self._length[start]
        self._remove(bisect_left(self._sizes, (length, start)))
        return length

    def before(self, end: int) -> int:
        """The length of the extent that ends at `end`; 0 if none does."""
        start = self._start.get(end)
        return 0 if start is None else end - start

    def give(self, start: int, nbytes: int) -> None:
        """Frees what `take` or `claim` gave, or the tail of it, or adds a new range."""
        length = self.rounded(nbytes)
        after = self._length.get(start + length)
        if after is not None:
            self.claim(start + length)
            length += after
        before = self._start.get(start)
        if before is not None:
            length += self.claim(before)
            start = before
        self._insert(start, length)

    def absorb(self, other: "Extents") -> None:
        """Adds what is free in `other`, which has ranges of its own and is not used any more."""
        for length, start in other._sizes:
            self._insert(start, length)

    @property
    def largest(self) -> int:
        """Bytes of the largest extent."""
        return self._sizes[-1][0] if self._sizes else 0

    def _insert(self, start: int, length: int) -> None:
        self._length[start] = length
        self._start[start + length] = start
        insort(self._sizes, (length, start))
        self.free += length

    def _remove(self, index: int) -> None:
        length, start = self._sizes.pop(index)
        del self._length[start], self._start[start + length]
        self.free -= length
