"""One request while it is worked on: until when, for whom, and whether anybody still wants it."""

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
    """Anybody may abort it, or finish it: then it ends well with what there is. `caller` is whom it is for."""

    deadline: Deadline
    caller: Identity = LOCAL
    aborted: bool = False
    finished: bool = False
    _hooks: list[tuple[Hook, Hook]] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def abort(self) -> None:
        """Gives the request up: the next `check` raises, and what works on it is told."""
        with self._lock:
            self.aborted = True
            hooks = [abort for abort, _ in self._hooks]
        for hook in hooks:
            hook()

    def finish(self) -> None:
        """Ends the request as if its stop had come."""
        with self._lock:
            self.finished = True
            hooks = [finish for _, finish in self._hooks]
        for hook in hooks:
            hook()

    def check(self, doing: str) -> None:
        """Raises Aborted or DeadlineExceeded, saying what was being done, once there is a reason to stop."""
        if self.aborted:
            raise Aborted(f"the request was given up while {doing}")
        self.deadline.check(doing)

    @contextmanager
    def ending(self, abort: Hook, finish: Hook) -> Iterator[None]:
        """Calls one of these if the request is given up or finished inside the context, or was before."""
        hooks = abort, finish
        with self._lock:
            self._hooks.append(hooks)
        try:
            if self.aborted:
                abort()
            elif self.finished:
                finish()
            yield
        finally:
            with self._lock:
                self._hooks.remove(hooks)
