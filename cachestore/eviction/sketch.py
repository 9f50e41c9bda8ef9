"""About how often were blocks used lately? A count-min sketch: Cormode and Muthukrishnan, J. Algorithms 55(1), 2005."""

from collections.abc import Hashable

_ROWS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
_MASK = (1 << 64) - 1
_MOST = 15
_LEAST_BLOCKS = 64


class Sketch:
    """Counts to 15, in four rows of 4 to 16 bytes for each block; all are halved after ten uses for each block."""

    def __init__(self) -> None:
        self._bits = 0
        self._rows: list[bytearray] = []
        self._adds = 0

    def add(self, name: Hashable, blocks: int) -> None:
        """Counts one use, where there are about `blocks` blocks. Counts begin anew when these outgrow the sketch."""
        if 4 * blocks > 1 << self._bits or not self._rows:
            self._bits = (8 * max(_LEAST_BLOCKS, blocks)).bit_length()
            self._rows = [bytearray(1 << self._bits) for _ in _ROWS]
            self._adds = 0
        places = self._places(name)
        least = min(row[at] for row, at in zip(self._rows, places, strict=True))
        if least < _MOST:
            for row, at in zip(self._rows, places, strict=True):
                if row[at] == least:
                    row[at] = least + 1
        self._adds += 1
        if self._adds >= 10 * max(blocks, _LEAST_BLOCKS):
            self._rows = [bytearray(count >> 1 for count in row) for row in self._rows]
            self._adds //= 2

    def __getitem__(self, name: Hashable) -> int:
        """About how often a block was used: never less than the truth since the last halving, up to 15."""
        return min((row[at] for row, at in zip(self._rows, self._places(name), strict=True)), default=0)

    def _places(self, name: Hashable) -> list[int]:
        # keys are hashes already; Python's own hash of bytes differs from process to process
        number = int.from_bytes(name[:8], "little") if isinstance(name, bytes) else hash(name)
        shift = 64 - self._bits
        number ^= number >> 32
        return [((number * row + row) & _MASK) >> shift for row in _ROWS]
