"""The decode workers there are, as the stores' cluster maps tell it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cachestore.errors import CacheStoreError
from cachestore.service.auth.credentials import Credentials
from cachestore.service.heartbeat import TTL
from gateway.stores import MAP_TIMEOUT, FollowedStore, Stores
from gateway.worker import Worker

BLANK = TTL
"""Seconds in which a store that was started again may not know all workers that live: they tell it one by one."""

Place = tuple[str, bytes]
"""Address and incarnation: a worker that was started again is another one."""


def nothing(store: str) -> None:
    """What else is done about a store that is gone."""


@dataclass(eq=False)
class Workers:
    """The decode workers of the spec `fingerprint`, in the cluster maps of the stores at `addresses` and of all that
    join those.

    The maps are asked again every `refresh` seconds. A store that does not answer, or was just started again, leaves
    its workers as they were last known; one that is gone takes them along, and `gone` is called with its address.
    A worker that failed rests for `rest` seconds, unless nobody else is there; requests on which one has been silent
    for `stall` seconds are given up.
    """

    addresses: Sequence[str]
    fingerprint: bytes
    refresh: float
    rest: float
    stall: float
    gone: Callable[[str], None] = nothing
    credentials: Credentials = field(default_factory=Credentials.from_environment)
    _known: dict[Place, Worker] = field(default_factory=dict)
    _stores: Stores = field(init=False)
    _task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self._stores = Stores(self.addresses, self.credentials)

    async def open(self) -> None:
        """Asks once, then again and again. The stores need not be there yet."""
        self._stores.open()
        await self._ask()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Ends every connection. Closing twice is allowed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for worker in self._known.values():
            await worker.close()
        self._known = {}
        self._stores.close()

    def all(self) -> list[Worker]:
        """Those in the cluster maps."""
        return [worker for worker in self._known.values() if worker.there]

    def ready(self, but: set[int]) -> list[Worker]:
        """Those to choose from, none of `but`, which are ids of workers: all, if all of them just failed."""
        left = [worker for worker in self.all() if id(worker) not in but]
        now = time.monotonic()
        return [worker for worker in left if worker.resting <= now] or left

    def failed(self, worker: Worker) -> None:
        """Leaves this worker alone for a while."""
        worker.resting = time.monotonic() + self.rest

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.refresh)
            await self._ask()
            for worker in self._known.values():
                worker.cut_silent(self.stall)

    async def _ask(self) -> None:
        await asyncio.gather(self._stores.look(), *map(self._ask_one, self._stores.all()))
        for store in self._stores.gone():
            self.gone(store.address)
            for worker in self._known.values():
                worker.there = worker.there and worker.store != store.address
        for place, worker in list(self._known.items()):
            if not worker.there and not worker.under_way:
                del self._known[place]
                await worker.close()

    async def _ask_one(self, store: FollowedStore) -> None:
        try:
            epoch, members = await asyncio.to_thread(store.remote.members, "decode", timeout=MAP_TIMEOUT)
        except CacheStoreError:
            return
        store.heard = now = time.monotonic()
        if epoch < store.epoch:
            # epochs only grow in one life of a store
            store.blank = now + BLANK
        store.epoch = epoch
        ours = {
            (member.address, member.incarnation): member for member in members if member.fingerprint == self.fingerprint
        }
        for place, member in ours.items():
            if place not in self._known:
                self._known[place] = Worker(member, store.address, self.credentials)
            self._known[place].heard(member.queue)
        for place, worker in self._known.items():
            if worker.store == store.address:
                worker.there = place in ours or (worker.there and now < store.blank)
