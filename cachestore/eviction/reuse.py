"""How likely is a block to be read again, given its kind and how long ago it was used?

Life tables, as actuaries keep them: of the blocks of one kind that reached an age, how many were read before the next?
That gives the chance of a read at each age, and with it the **worth** of a block: the most reads per unit of time
that keeping it for some while can be expected to give. It is the index of Gittins (J. R. Stat. Soc. B 41, 1979) for
when to stop; Beckmann, Chen and Cidon's LHD (NSDI '18) evicts by a like density of hits.
"""

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

EDGES = [0, *(round(16 * 2 ** (step / 2)) for step in range(64))]
"""Ages are counted in buckets of half an octave; this is where they begin."""
_WIDTHS = np.diff([*EDGES, 2 * EDGES[-1]]).astype(float)
_PRIOR = 30.0
"""As many blocks as this, with the chances of all kinds together, are added to each kind: few cases prove little."""
_KEEP = 0.99
"""What is left of the counts after each time that something is learnt from them: blocks of long ago count less."""


def bucket(age: int) -> int:
    """Which bucket an age is in."""
    return bisect_right(EDGES, age) - 1


class Reuse:
    """The tables of some kinds of blocks. Ages are counts of blocks put or read meanwhile."""

    def __init__(self, kinds: int) -> None:
        self.read = [[0.0] * len(EDGES) for _ in range(kinds)]
        """Blocks read again, by kind and age."""
        self.lost = [[0.0] * len(EDGES) for _ in range(kinds)]
        """Blocks of which nothing will be known any more, by kind and age."""
        self.worth = [[0.0] * len(EDGES) for _ in range(kinds)]
        """Reads per block put or read meanwhile that a block is worth, by kind, where each bucket of ages
        begins; straight lines between. All alike until something is learnt."""

    def learn(self, waiting: NDArray[np.float64]) -> None:
        """Works out the worth of all blocks; `waiting` are those not read yet, by kind and age."""
        read, lost = np.array(self.read), np.array(self.lost)
        ended = read + lost + waiting
        # who ends in a bucket spent half of it there
        spent = (ended[:, ::-1].cumsum(axis=1)[:, ::-1] - ended / 2) * _WIDTHS
        together = read.sum(axis=0) / (spent.sum(axis=0) + _WIDTHS)
        # ages that nobody has reached get no chance: what is older than anything known leaves first
        rate = (read + _PRIOR * _WIDTHS * together) / (spent + _PRIOR * _WIDTHS)
        chance = -np.expm1(-rate * _WIDTHS)
        stay = (1 - chance / 2) * _WIDTHS
        reached = int(np.flatnonzero(ended.sum(axis=0)).max(initial=0)) + 2
        worth = np.zeros_like(rate)
        for at in range(reached):
            alive = np.cumprod(np.hstack([np.ones((len(rate), 1)), 1 - chance[:, at : reached - 1]]), axis=1)
            reads = (alive * chance[:, at:reached]).cumsum(axis=1)
            worth[:, at] = (reads / (alive * stay[:, at:reached]).cumsum(axis=1)).max(axis=1)
        self.worth = worth.tolist()
        self.read = (read * _KEEP).tolist()
        self.lost = (lost * _KEEP).tolist()
