"""Host memory for blocks on their way between an engine's pages and the store, bounded and used again and again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Condition

import torch

from cachestore.block import BlockSpec
from cachestore.engine.page_memory import PageMemory
from cachestore.errors import ConfigError


@dataclass(eq=False)
class Staging:
    """Room for blocks of `spec` in `nbytes`, of which loads have `taken`; several threads may take and give back.

    ConfigError if no block has room.
    """

    spec: BlockSpec
    nbytes: int
    taken: int = 0
    memory: PageMemory = field(init=False)

    def __post_init__(self) -> None:
        each = PageMemory.page_bytes(self.spec)
        room = self.nbytes - self.taken
        if room < each:
            raise ConfigError(
                f"staging = {self.nbytes} bytes hold no block of {each} bytes beside {self.taken} of loads; give more"
            )
        self.memory = PageMemory(self.spec, room // each, torch.device("cpu"))
        self._free = list(reversed(range(self.memory.pages)))
        self._given = Condition()

    def take(self, most: int, timeout: float) -> list[int]:
        """Up to `most` pages of `memory`, waiting until there is one; none if the time is over."""
        with self._given:
            self._given.wait_for(lambda: bool(self._free), timeout)
            return [self._free.pop() for _ in range(min(most, len(self._free)))]

    def give(self, pages: Sequence[int]) -> None:
        """Gives pages back."""
        with self._given:
            # those used last are still in the caches of the processor
            self._free += reversed(pages)
            self._given.notify_all()
