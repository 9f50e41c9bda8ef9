"""The stores there are: those named at the start, and all that the cluster map of any of them tells."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from cachestore.errors import CacheStoreError
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore

MAP_TIMEOUT = 1.0
"""Seconds a store may take to tell the cluster map; it is one small message."""

GONE = 60.0
"""Seconds after which a store that no map has any more, and that does not answer, is gone with its workers."""


@dataclass(eq=False)
class FollowedStore:
    """A store whose cluster map is asked. `heard` is when it answered, or when another one told of it."""

    address: str
    remote: RemoteStore
    named: bool
    """Whether it was named at the start: such a one is asked for ever."""
    listed: bool = False
    heard: float = 0.0
    epoch: int = 0
    blank: float = 0.0
    """Until when it misses nobody."""


@dataclass(eq=False)
class Stores:
    """The stores at `addresses`, and those that join them."""

    addresses: Sequence[str]
    credentials: Credentials
    _there: dict[str, FollowedStore] = field(default_factory=dict)
    _turn: int = 0

    def open(self) -> None:
        """Gets ready to ask those that are named; they need not be there yet."""
        for address in self.addresses:
            self._begin(address, named=True)

    def close(self) -> None:
        """Ends every connection. Closing twice is allowed."""
        there, self._there = list(self._there.values()), {}
        for store in there:
            store.remote.close()

    def all(self) -> list[FollowedStore]:
        """Those to ask."""
        return list(self._there.values())

    async def look(self) -> None:
        """Asks one, each in its turn, which stores there are: every one tells of all that it reads from."""
        there = self.all()
        if not there:
            return
        asked = there[self._turn % len(there)]
        self._turn += 1
        try:
            _, members = await asyncio.to_thread(asked.remote.members, "store", timeout=MAP_TIMEOUT)
        except CacheStoreError:
            return
        for member in members:
            try:
                store = self._there.get(member.address) or self._begin(member.address)
            except CacheStoreError:
                # what is no address is nobody's to ask
                continue
            store.listed, store.heard = True, time.monotonic()

    def gone(self) -> list[FollowedStore]:
        """Those that are gone since the last call; of them only the named ones are asked again."""
        before = time.monotonic() - GONE
        gone = [store for store in self._there.values() if store.listed and store.heard < before]
        for store in gone:
            store.listed = False
            if not store.named:
                del self._there[store.address]
                store.remote.close()
        return gone

    def _begin(self, address: str, *, named: bool = False) -> FollowedStore:
        remote = RemoteStore(address, credentials=self.credentials)
        remote.open()
        store = self._there[address] = FollowedStore(address, remote, named, heard=time.monotonic())
        return store
