"""Requests that wait or run in a worker: a bound on them, and a way to abort one by its id."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, InvalidArgument, Overloaded
from cachestore.metrics import Counters
from cachestore.service.auth.identity import LOCAL, Identity
from prefill_worker.call import Call

LONGEST_ID = 128


@dataclass(eq=False)
class Running:
    """At most `limit` requests at a time; the others are counted as `requests_refused`."""

    limit: int
    counters: Counters
    _calls: dict[str, Call] = field(default_factory=dict)
    _changed: Condition = field(default_factory=Condition)

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def enter(self, request_id: str, deadline: Deadline, caller: Identity = LOCAL) -> Iterator[Call]:
        """The request of `caller` is under way inside the context.

        InvalidArgument for an id in use, Overloaded if full.
        """
        call = Call(deadline, caller)
        try:
            self._add(request_id, call)
        except CacheStoreError as error:
            self.counters.add("requests_refused", reason=error.reason)
            raise
        try:
            yield call
        finally:
            with self._changed:
                del self._calls[request_id]
                self._changed.notify_all()

    def _add(self, request_id: str, call: Call) -> None:
        if not 1 <= len(request_id) <= LONGEST_ID:
            raise InvalidArgument(f"request_id must have 1 to {LONGEST_ID} characters, got {len(request_id)}")
        with self._changed:
            if request_id in self._calls:
                raise InvalidArgument("request_id names a request that is under way; choose another")
            if len(self._calls) >= self.limit:
                raise Overloaded(f"{self.limit} requests wait or run here already; try again later or elsewhere")
            self._calls[request_id] = call

    def abort(self, request_id: str, *, finish: bool = False) -> bool:
        """Gives a request up, or finishes it; whether it was there."""
        call = self._calls.get(request_id)
        if call is None:
            return False
        if finish:
            call.finish()
        else:
            call.abort()
        return True

    def drain(self, timeout: float) -> bool:
        """Gives all requests up and waits until they have ended; False if the time is over first."""
        with self._changed:
            calls = list(self._calls.values())
        for call in calls:
            call.abort()
        with self._changed:
            return self._changed.wait_for(lambda: not self._calls, timeout)
