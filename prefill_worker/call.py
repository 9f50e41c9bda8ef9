"""One request while it is worked on: until when, and whether anybody still wants it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from cachestore.deadline import Deadline
from cachestore.errors import Aborted
from cachestore.service.auth.identity import LOCAL, Identity

Hook = Callable[[], object]


@dataclass(eq=False)
class Call:
    """Whoever works on it calls `check` between steps; anybody may abort it. `caller` is whom it is for."""

    deadline: Deadline
    caller: Identity = LOCAL
    _aborted: bool = False
    _hooks: list[Hook] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    @property
    def aborted(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._aborted

    def abort(self) -> None:
        """Gives the request up: the next `check` raises, and what it waits for elsewhere is cancelled now."""
        with self._lock:
            self._aborted = True
            hooks = list(self._hooks)
        for hook in hooks:
            hook()

    def check(self, doing: str) -> None:
        """Raises Aborted or DeadlineExceeded, saying what was being done, once there is a reason to stop."""
        if self._aborted:
            raise Aborted(f"the request was given up while {doing}")
        self.deadline.check(doing)

    @contextmanager
    def cancelling(self, hook: Hook) -> Iterator[None]:
        """Calls `hook` if the request is given up inside the context, or was before."""
        with self._lock:
            self._hooks.append(hook)
            late = self._aborted
        try:
            if late:
                hook()
            yield
        finally:
            with self._lock:
                self._hooks.remove(hook)
