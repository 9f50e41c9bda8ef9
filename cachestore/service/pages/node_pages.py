"""Blocks on a device that the workers of one node hand each other, beside what the store itself holds."""

from collections.abc import Sequence
from functools import partial
from threading import Lock
from typing import Self

from cachestore.block import WHOLE, Buffer, Part
from cachestore.deadline import Deadline
from cachestore.errors import Unavailable
from cachestore.hashing import Chain
from cachestore.service import convert
from cachestore.service.client import RemoteStore
from cachestore.service.pages.attached import Attached, in_turn
from cachestore.service.pages.registering import Registration
from cachestore.service.pages.session import PageSession
from cachestore.service.pages.sessions import LentSessions, Sessions
from cachestore.service.pages.transport import Pages
from cachestore.service.remote_reading import RemoteReading
from cachestore.service.shared.client import Lost
from cachestore.store.base import TIMEOUT, Lookup, Purpose
from cachestore.store.checks import check_into, in_one
from cachestore.tiers.gpu_memory import memory_of
from cachestore.tiers.gpu_tier import GpuTier
from cachestore.wire import session_pb2, store_pb2


class NodePages:
    """The pages of this node's workers on `device`, opened beside a `store` on this node that shares its memory.

    With a `tier`, an open one on the same device, its pages are registered for the others: call `sync` after every
    put, and every few minutes without one. Without one pages are only read. With `verify` checksums are taken of
    every copy, which costs one more to the host; without, the device's memory is trusted. What a tier shared stays
    its namespace's until `close`.

    Every call may raise what calls of `RemoteStore` do.
    """

    def __init__(
        self, store: RemoteStore, device: str = "cuda", tier: GpuTier | None = None, *, verify: bool = True
    ) -> None:
        self._store = store
        self._device = device
        self._tier = tier
        self._verify = verify
        self._sessions: Sessions | None = None
        self._transport: Pages | None = None
        self._registration: Registration | None = None
        self._registered: PageSession | None = None
        """The session that the registration was begun with."""
        self._syncing = Lock()

    def open(self) -> None:
        """Gets ready to open memory of the device. ConfigError if it is not there."""
        memory, connection = memory_of(self._device), self._store.connection
        self._sessions = LentSessions(connection, memory) if self._tier is None else Attached(connection, memory)
        self._transport = Pages(self._sessions, verify=self._verify)

    def close(self) -> None:
        """Takes back what was registered. Closing twice is allowed."""
        with self._syncing:
            if self._sessions is not None:
                self._sessions.close()
            if self._registration is not None:
                self._registration.close()
            self._registration = self._registered = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def namespace(self, *, timeout: float = TIMEOUT) -> bytes:
        """The id of the namespace that the store takes this process to work for: what the tier's pages must be of."""
        sessions = self._opened()
        session = sessions.take(Deadline.after(timeout))
        try:
            return session.namespace
        finally:
            sessions.give(session)

    def sync(self, *, timeout: float = TIMEOUT) -> int:
        """Tells the store what the tier holds by now; how many of its pages are registered.

        What was deleted or cleared in the store leaves the tier. Where the store was lost, all is registered anew.
        """
        deadline = Deadline.after(timeout)
        if self._tier is None:
            return 0
        with in_turn(self._syncing, deadline):
            session = self._opened().take(deadline)
            if self._registration is None:
                self._registration = Registration(self._tier, session.namespace)
            if self._registered is not session:
                self._registration.begin()
                self._registered = session
            try:
                return self._registration.sync(partial(self._said, session, deadline))
            except Lost:
                raise Unavailable(
                    "the session with the store ended: what is not registered is by the next call"
                ) from None

    def lookup(self, chain: Chain, *, timeout: float = TIMEOUT) -> Lookup:
        """As the store's, with the pages that can be read here; those of this worker's own tier are not among them."""
        deadline = Deadline.after(timeout)
        self._opened()
        assert self._transport is not None
        answer = self._transport.lookup(store_pb2.LookupRequest(chain=convert.chain_message(chain)), deadline)
        return convert.lookup(answer) if answer is not None else self._store.lookup(chain, timeout=deadline.remaining())

    def read(
        self,
        chain: Chain,
        *,
        part: Part = WHOLE,
        into: Sequence[Buffer] | None = None,
        purpose: Purpose = Purpose.REUSE,
        timeout: float = TIMEOUT,
    ) -> RemoteReading:
        """As the store's. What is in pages is copied from there, and what is not, or turns out to be no more, comes
        as from the store.

        Without `into` planes from pages stay on the device; `cachestore.service.pages.on_device` has them there.
        """
        check_into(into, len(chain))
        in_one(into)
        self._opened()
        assert self._transport is not None
        ways = [self._transport, *self._store.transports]
        reading = RemoteReading(ways, chain, part, into, Deadline.after(timeout))
        reading.open(None, 0.0, purpose)
        return reading

    def _said(
        self, session: PageSession, deadline: Deadline, message: session_pb2.RegisterPages, given: Sequence[int]
    ) -> session_pb2.RegisteredPages:
        request = session_pb2.SessionRequest(register=message)
        return self._opened().ask(session, request, deadline, given).registered

    def _opened(self) -> Sessions:
        if self._sessions is None:
            raise Unavailable("the pages are not open; call open() first")
        return self._sessions
