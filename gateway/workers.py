"""The decode workers there are, as the stores' cluster maps tell it."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cachestore.errors import CacheStoreError
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from cachestore.service.heartbeat import TTL
from gateway.worker import Worker

MAP_TIMEOUT = 1.0
"""Seconds a store may take to tell the cluster map; it is one small message."""

BLANK = TTL
"""Seconds in which a store that was started again may not know all workers that live: they tell it one by one."""

Place = tuple[str, bytes]
"""Address and incarnation: a worker that was started again is another one."""


@dataclass(eq=False)
class Workers:
    """The decode workers of the spec `fingerprint`, in the cluster maps of the stores at `addresses`.

    The maps are asked again every `refresh` seconds. A store that does not answer, or was just started again, leaves
    its workers as they were last known. A worker that failed rests for `rest` seconds, unless nobody else is there;
    requests on which one has been silent for `stall` seconds are given up.
    """

    addresses: Sequence[str]
    fingerprint: bytes
    refresh: float
    rest: float
    stall: float
    credentials: Credentials = field(default_factory=Credentials.from_environment)
    _known: dict[Place, Worker] = field(default_factory=dict)
    _stores: list[RemoteStore] = field(default_factory=list)
    _epochs: dict[str, int] = field(default_factory=dict)
    _blank: dict[str, float] = field(default_factory=dict)
    """Until when a store misses nobody."""
    _task: "asyncio.Task[None] | None" = None

    async def open(self) -> None:
        """Asks once, then again and again. The stores need not be there yet."""
        self._stores = [RemoteStore(address, credentials=self.credentials) for address in self.addresses]
        for store in self._stores:
            store.open()
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
        stores, self._stores = self._stores, []
        for store in stores:
            store.close()

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
        await asyncio.gather(
            *(self._ask_one(store, at) for store, at in zip(self._stores, self.addresses, strict=True))
        )

    async def _ask_one(self, store: RemoteStore, address: str) -> None:
        try:
            epoch, members = await asyncio.to_thread(store.members, "decode", timeout=MAP_TIMEOUT)
        except CacheStoreError:
            return
        now = time.monotonic()
        if epoch < self._epochs.get(address, 0):
            # epochs only grow in one life of a store
            self._blank[address] = now + BLANK
        self._epochs[address] = epoch
        ours = {
            (member.address, member.incarnation): member for member in members if member.fingerprint == self.fingerprint
        }
        for place, member in ours.items():
            if place not in self._known:
                self._known[place] = Worker(member, address, self.credentials)
            self._known[place].heard(member.queue)
        for place, worker in list(self._known.items()):
            if worker.store == address:
                worker.there = place in ours or (worker.there and now < self._blank.get(address, 0.0))
                if not worker.there and not worker.under_way:
                    del self._known[place]
                    await worker.close()
