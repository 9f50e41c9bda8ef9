"""Free space inside one slab: first fit over extents, joined again when they are freed."""

from bisect import bisect_left, insort
from dataclasses import dataclass, field


@dataclass
class Extents:
    """The free extents of `size` bytes, all multiples of `unit`, sorted by offset; neighbours are always joined."""

    size: int
    unit: int
    _free: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        assert self.size % self.unit == 0
        self._free = [(0, self.size)]

    def rounded(self, nbytes: int) -> int:
        """`nbytes` as whole units."""
        return (nbytes + self.unit - 1) // self.unit * self.unit

    def take(self, nbytes: int) -> int | None:
        """The offset of an extent of at least `nbytes`, or None if no single one is left."""
        need = self.rounded(nbytes)
        for index, (offset, length) in enumerate(self._free):
            if length >= need:
                if length == need:
                    del self._free[index]
                else:
                    self._free[index] = (offset + need, length - need)
                return offset
        return None

    def give(self, offset: int, nbytes: int) -> None:
        """Frees what `take` gave, or the tail of it."""
        length = self.rounded(nbytes)
        index = bisect_left(self._free, (offset, 0))
        if index < len(self._free) and self._free[index][0] == offset + length:
            length += self._free.pop(index)[1]
        if index and sum(self._free[index - 1]) == offset:
            before = self._free.pop(index - 1)
            offset, length = before[0], before[1] + length
        insort(self._free, (offset, length))

    @property
    def free(self) -> int:
        """Bytes not taken, in however many pieces."""
        return sum(length for _, length in self._free)

    @property
    def empty(self) -> bool:
        """Whether nothing is taken."""
        return self.free == self.size
