"""What one caller may hold of something that all share, and who gives way where nobody is known."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from cachestore.errors import Overloaded
from cachestore.service.auth.identity import Identity
from cachestore.service.budget import Budget


@dataclass(eq=False)
class Shares:
    """At most `limit` of `unit` for each caller. A tenant of delegates is one, whichever of them acts for it."""

    limit: float
    unit: str
    _held: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    def take(self, identity: Identity, amount: int = 1) -> None:
        """Takes `amount`; Overloaded, and nothing is taken, if the caller would have more than its share."""
        caller = _caller(identity)
        with self._lock:
            held = self._held[caller]
            if held + amount > self.limit:
                who = caller[0] or f"the tenant {caller[1]}"
                raise Overloaded(
                    f"{who} holds {held} of the {self.limit} {self.unit} that are all that one caller may; end "
                    "some, or try again a little later"
                )
            self._held[caller] = held + amount

    def give_back(self, identity: Identity, amount: int = 1) -> None:
        """Gives back what was taken."""
        caller = _caller(identity)
        with self._lock:
            self._held[caller] -= amount
            if not self._held[caller]:
                del self._held[caller]

    @contextmanager
    def hold(self, identity: Identity, amount: int = 1) -> Iterator[None]:
        """Takes `amount` for as long as the context lasts."""
        self.take(identity, amount)
        try:
            yield
        finally:
            self.give_back(identity, amount)


def _caller(identity: Identity) -> tuple[str, str]:
    """Name and namespace of whoever what is held counts for; a tenant has no name of its own."""
    return "" if identity.tenant else identity.name, identity.namespace


@dataclass(eq=False)
class SharedBudget:
    """A budget of which each caller has its share."""

    whole: Budget
    share: Shares

    def take(self, identity: Identity, amount: int) -> None:
        """Takes `amount`; Overloaded, and nothing is taken, if that would pass the whole or the caller's share."""
        self.share.take(identity, amount)
        try:
            self.whole.take(amount)
        except Overloaded:
            self.share.give_back(identity, amount)
            raise

    def give_back(self, identity: Identity, amount: int) -> None:
        """Gives back what was taken."""
        self.whole.give_back(amount)
        self.share.give_back(identity, amount)

    @contextmanager
    def hold(self, identity: Identity, amount: int) -> Iterator[None]:
        """Takes `amount` for as long as the context lasts."""
        self.take(identity, amount)
        try:
            yield
        finally:
            self.give_back(identity, amount)


def shares(total: int, callers: int, unit: str) -> Shares:
    """Half of `total` for each of so many callers; where there is but one, the total is its bound."""
    return Shares(max(1, total // 2) if callers > 1 else math.inf, unit)


@dataclass(eq=False)
class Places:
    """So many places to wait in; whoever has waited longest gives way to whoever comes."""

    count: int
    _waiting: dict[object, Callable[[], object]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def hold(self, leave: Callable[[], object]) -> Iterator[None]:
        """A place for as long as the context lasts; `leave` is called if another needs it first."""
        place, first = object(), None
        with self._lock:
            if len(self._waiting) >= self.count:
                first = self._waiting.pop(next(iter(self._waiting)))
            self._waiting[place] = leave
        if first is not None:
            first()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(place, None)
