"""What is still to be told: changes of entries, each once, as many as there is room for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock

from cachestore.directory.redis_changes import Change


@dataclass(eq=False)
class Pending:
    """By name of the entry: whether this node holds the block, and who else does not. `most` of each wait at most."""

    most: int
    _own: dict[bytes, bool] = field(default_factory=dict)
    _others: dict[bytes, set[bytes]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __len__(self) -> int:
        return len(self._own) + len(self._others)

    @property
    def room(self) -> int:
        """How many more of this node's own may wait."""
        return max(0, self.most - len(self._own))

    def tell(self, names: Sequence[bytes], there: bool) -> int:
        """This node holds these blocks now, or no longer; for how many there was no room."""
        dropped = 0
        with self._lock:
            for name in names:
                if name in self._own or len(self._own) < self.most:
                    self._own[name] = there
                else:
                    dropped += 1
        return dropped

    def repeat(self, names: Sequence[bytes]) -> None:
        """This node holds these blocks, unless it said something newer of them."""
        with self._lock:
            for name in names:
                self._own.setdefault(name, True)

    def remove(self, name: bytes, incarnations: Iterable[bytes]) -> bool:
        """These do not hold this block; whether there was room to say so."""
        with self._lock:
            if name not in self._others and len(self._others) >= self.most:
                return False
            self._others.setdefault(name, set()).update(incarnations)
            return True

    @property
    def removes(self) -> bool:
        """Whether anybody is about to be taken out of any entry."""
        return bool(self._others)

    def removed(self, name: bytes) -> set[bytes] | frozenset[bytes]:
        """Who is about to be taken out of this entry."""
        return self._others.get(name, frozenset())

    def take(self, count: int, own: bytes | None) -> dict[bytes, Change]:
        """The next changes, which wait no longer; `own` is this node's incarnation."""
        with self._lock:
            others = {name: self._others.pop(name) for name in list(islice(self._others, count))}
            changes = {name: Change(remove=frozenset(gone)) for name, gone in others.items()}
            names = list(islice(self._own, count)) if own is not None else []
            for name in names:
                there, change = self._own.pop(name), changes.get(name, Change())
                assert own is not None
                if there:
                    changes[name] = Change(own, change.remove - {own})
                else:
                    changes[name] = Change(None, change.remove | {own})
            return changes

    def put_back(self, changes: Mapping[bytes, Change], own: bytes | None) -> None:
        """These could not be told; what was said of them since counts more."""
        with self._lock:
            for name, (add, remove) in changes.items():
                if add is not None or own in remove:
                    self._own.setdefault(name, add is not None)
                if others := remove - {own}:
                    self._others.setdefault(name, set()).update(others)

    def clear(self) -> None:
        """Forgets what this node had to say of itself."""
        with self._lock:
            self._own.clear()
