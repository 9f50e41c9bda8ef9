"""What one caller may hold of something that all share, and who gives way where nobody is known."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from cachestore.errors import Overloaded
from cachestore.service.auth.identity import Identity


@dataclass(eq=False)
class Shares:
    """At most `limit` of `unit` for each caller, a delegate counting once for each of its tenants."""

    limit: float
    unit: str
    _held: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def hold(self, identity: Identity) -> Iterator[None]:
        """Takes one for as long as the context lasts; Overloaded if the caller has its share already."""
        name = identity.name, identity.namespace
        with self._lock:
            if self._held[name] >= self.limit:
                raise Overloaded(
                    f"{identity.name} holds {self.limit} {self.unit}, all that one caller may; end one, or try again "
                    "a little later"
                )
            self._held[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[name] -= 1
                if not self._held[name]:
                    del self._held[name]


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
