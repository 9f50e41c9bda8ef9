"""Would least recently used have done better?"""

_LITTLE = 0.05
"""Of the blocks read: where fewer than this came back after they were evicted, nearly all that can be won is."""
_KEEP = 0.9
"""What is left of the counts after each judgement: the rivals are judged by what they do now."""
_MUCH = 1 / 16
"""Of the blocks there are: LRU need not wait for a judgement when it is ahead by more than this."""


class Rival:
    """Counts the blocks that `prefix` and LRU would each have lost to the other, and says which of them decides.

    `Waiting` knows of each block read whether LRU would hold it: the leader of the two is followed as in the adaptive
    caches of Subramanian, Smaragdakis and Loh (MICRO '06), but without a second directory.
    """

    def __init__(self) -> None:
        self.won = 0.0
        """Blocks read that LRU would have evicted; `found` are all blocks read."""
        self.lost = 0.0
        """Blocks that came back after they were evicted, and that LRU would have had; `back` are all that came back."""
        self.found = 0
        self.back = 0
        self.decides = 2
        """For how many more judgements LRU decides."""
        self._next = 4

    def watch(self, size: int) -> None:
        """LRU takes over at once where it is far ahead; `size` is how many blocks there are.

        In a small tier everything may leave several times before the next judgement, and be lost each time.
        """
        if not self.decides and self.lost - self.won > _MUCH * size:
            self._hand_over()

    def judge(self) -> None:
        """LRU decides while it is ahead, and where hardly anything that left comes back, so that little can be won."""
        if self.decides:
            self.decides -= 1
            self.won = self.lost = 0
        if not self.decides:
            if self.back < _LITTLE * self.found:
                self.decides = 1
            elif self.lost > self.won:
                self._hand_over()
        self.won, self.lost = self.won * _KEEP, self.lost * _KEEP
        self.found, self.back = int(self.found * _KEEP), int(self.back * _KEEP)

    def _hand_over(self) -> None:
        # twice as long each time
        self.decides, self._next = self._next, self._next * 2
