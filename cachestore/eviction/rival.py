"""Would least recently used have done better?"""

from collections import deque
from statistics import median

_LITTLE = 0.05
"""Of the blocks read: where fewer than this came back after they were evicted, nearly all that can be won is."""
_KEEP = 0.9
"""What is left of the counts after each judgement: the rivals are judged by what they do now."""
_AGES = 15
"""As many last ages are kept."""


class Rival:
    """Counts the blocks that `prefix` and LRU would each have lost to the other, and says which of them decides.

    LRU holds as many blocks as there are, the last used: those younger than `age`, whoever decided what to evict. Where
    a few prompts fill the tier, that age jumps from one prompt to the next, so it is the median of the last few.
    """

    def __init__(self) -> None:
        self.age = 0.0
        self.won = 0
        """Blocks read that LRU would have evicted; `found` are all blocks read."""
        self.lost = 0
        """Blocks that came back after they were evicted, and that LRU would have had; `back` are all that came back."""
        self.found = 0
        self.back = 0
        self.decides = 2
        """For how many more judgements LRU decides."""
        self._next = 4
        self._ages: deque[float] = deque(maxlen=_AGES)

    def aged(self, age: float) -> None:
        """How old the oldest block is now that LRU would hold."""
        self._ages.append(age)
        self.age = median(self._ages)

    def judge(self) -> None:
        """LRU decides while it is ahead, and where hardly anything that left comes back, so that little can be won."""
        if self.decides:
            self.decides -= 1
            self.won = self.lost = 0
        if not self.decides:
            if self.back < _LITTLE * self.found:
                self.decides = 1
            elif self.lost > self.won:
                # twice as long each time
                self.decides, self._next = self._next, self._next * 2
        self.won, self.lost = int(self.won * _KEEP), int(self.lost * _KEEP)
        self.found, self.back = int(self.found * _KEEP), int(self.back * _KEEP)
