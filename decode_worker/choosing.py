"""Which prefill worker: the one with the shortest queue that did not just fail."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock

from cachestore.errors import CacheStoreError
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from prefill_worker.client import PrefillClient

Place = tuple[str, bytes]
"""Address and incarnation: a worker that was started again is another one."""

MAP_TIMEOUT = 1.0
"""Seconds the store may take to tell the cluster map; it is one small message."""


def place(member: Member) -> Place:
    """What tells this member from all others, also from its own earlier life."""
    return member.address, member.incarnation


@dataclass(eq=False)
class PrefillWorkers:
    """The prefill workers in the cluster map of `store`, which is asked again after `refresh` seconds.

    The map's queues are a heartbeat old, so what is asked of a worker from here counts on top. A worker that failed
    rests for `rest` seconds.
    """

    store: RemoteStore
    refresh: float
    rest: float
    clock: Callable[[], float] = time.monotonic
    _known: tuple[Member, ...] = ()
    _reachable: bool = False
    _told: Event = field(default_factory=Event)
    _asked_at: float = float("-inf")
    _asked: dict[Place, int] = field(default_factory=dict)
    _resting: dict[Place, float] = field(default_factory=dict)
    _clients: dict[Place, PrefillClient] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def reachable(self) -> bool:
        """Whether the store answered when it was last asked, which is `refresh` seconds ago at most.

        Without it no prefill worker can hand anything over, and it costs less to find out here.
        """
        self._refresh()
        return self._reachable

    def best(self, fingerprint: bytes, but: set[Place]) -> Member | None:
        """The worker of this spec to ask next, none of `but`; None if no worker is left."""
        with self._lock:
            now = self.clock()
            free = [
                member
                for member in self._known
                if member.fingerprint == fingerprint
                and place(member) not in but
                and self._resting.get(place(member), now) <= now
            ]
            return min(free, key=lambda member: member.queue + self._asked.get(place(member), 0), default=None)

    @contextmanager
    def asking(self, member: Member) -> Iterator[PrefillClient]:
        """A client of this worker, which is counted as asked inside the context."""
        at = place(member)
        with self._lock:
            if at not in self._clients:
                self._clients[at] = PrefillClient(member.address)
                self._clients[at].open()
            client = self._clients[at]
            self._asked[at] = self._asked.get(at, 0) + 1
        try:
            yield client
        finally:
            with self._lock:
                self._asked[at] -= 1

    def failed(self, member: Member) -> None:
        """Leaves this worker alone for a while."""
        with self._lock:
            self._resting[place(member)] = self.clock() + self.rest

    def close(self) -> None:
        """Ends every connection. Closing twice is allowed."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()

    def _refresh(self) -> None:
        with self._lock:
            due = self.clock() - self._asked_at >= self.refresh
            if due:
                self._asked_at = self.clock()
        if due:
            self._ask()
            self._told.set()
        else:
            # the first answer may be under way
            self._told.wait(MAP_TIMEOUT)

    def _ask(self) -> None:
        try:
            _, members = self.store.members("prefill", timeout=MAP_TIMEOUT)
        except CacheStoreError:
            self._reachable = False
            return
        with self._lock:
            self._reachable = True
            self._known = members
            there = {place(member) for member in members}
            idle = [at for at in self._clients if at not in there and not self._asked.get(at)]
            gone = [self._clients.pop(at) for at in idle]
            self._asked = {at: count for at, count in self._asked.items() if count or at in there}
            self._resting = {at: until for at, until in self._resting.items() if at in there}
        for client in gone:
            client.close()
