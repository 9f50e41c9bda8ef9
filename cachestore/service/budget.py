"""How much work and how many bytes the service holds at once; beyond that it says so at once instead of queueing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from cachestore.errors import Overloaded


@dataclass
class Budget:
    """A bound that many calls share. `unit` names what is counted in messages."""

    limit: int
    unit: str
    _used: int = 0
    _lock: Lock = field(default_factory=Lock)

    @property
    def used(self) -> int:
        """How much is taken now."""
        return self._used

    def take(self, amount: int) -> None:
        """Takes `amount`; Overloaded, and nothing is taken, if that would pass the limit."""
        with self._lock:
            if self._used + amount > self.limit:
                raise Overloaded(f"{self._used} of {self.limit} {self.unit} are in use; try again a little later")
            self._used += amount

    def give_back(self, amount: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self._used -= amount

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Takes `amount` for as long as the context lasts."""
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)
