"""The server's side of one shared-memory session: small requests, answered with where the bytes lie."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, PermissionDenied
from cachestore.service import carried, convert
from cachestore.service.auth.identity import Identity
from cachestore.service.auth.methods import LEAST_ROLE
from cachestore.service.shared.lending import SessionPut
from cachestore.service.shared.pages import SessionPages
from cachestore.service.shared.slabs import SessionSlabs, SlabNumbers
from cachestore.service.stream import reading
from cachestore.store.base import Lease
from cachestore.store.local import LocalStore
from cachestore.store.owned_page import Show
from cachestore.tiers.slab import Slot
from cachestore.wire import session_pb2 as wire
from cachestore.wire import store_pb2

METHODS = {
    "lookup": "Lookup",
    "read": "Read",
    "release": "Release",
    "reserve": "Write",
    "commit": "Write",
    "abort": "Abort",
    "register": "Write",
    "missed": "Release",
}
"""The method whose role each request of a session needs."""


@dataclass(eq=False)
class Session:
    """What one client may do and has open. One thread calls it; `close` gives everything back.

    `over` says whether nobody waits any more for what it answers: then it does not wait for blocks either.
    """

    store: LocalStore
    identity: Identity
    writer: bool
    numbers: SlabNumbers
    over: Callable[[], bool]
    device: str = ""
    id: bytes = field(default_factory=lambda: os.urandom(16))
    slabs: SessionSlabs = field(init=False)
    pages: SessionPages = field(init=False)
    _put: SessionPut | None = None

    def __post_init__(self) -> None:
        self.slabs = SessionSlabs(self.numbers, self.id)
        self.pages = SessionPages(self.store, self.device)

    @property
    def lent(self) -> bool:
        """Whether the client may be writing to memory of the store."""
        return self._put is not None and bool(self._put.lent)

    def answer(
        self, request: wire.SessionRequest, deadline: Deadline, descriptors: Sequence[int] = ()
    ) -> wire.SessionAnswer:
        """The answer to one request; what is raised is its answer too. The descriptors stay the caller's."""
        kind = request.WhichOneof("message")
        method = METHODS.get(kind or "")
        if method is None:
            raise InvalidArgument(f"the request must be one of {', '.join(METHODS)}")
        least = LEAST_ROLE[f"/cachestore.v1.CacheStore/{method}"]
        if self.identity.role < least:
            raise PermissionDenied(f"{kind} needs the role {least.name}, and {self.identity.name} is not")
        match kind:
            case "lookup":
                chain = convert.chain(request.lookup.chain)
                found = self.store.lookup(chain, show=self._show, timeout=deadline.remaining())
                return wire.SessionAnswer(lookup=convert.lookup_message(found))
            case "read":
                return self._read(request.read, deadline)
            case "release":
                return self._release(request.release, deadline)
            case "reserve":
                return self._reserve(request.reserve, deadline)
            case "register":
                self._check_writer()
                return self.pages.register(request.register, descriptors)
            case "missed":
                return self.pages.missed(request.missed, deadline)
            case "commit":
                return wire.SessionAnswer(write=self._opened(request.commit.put).commit(request.commit))
        return wire.SessionAnswer(abort=store_pb2.AbortResponse(blocks=self._opened(request.abort.put).abort()))

    def close(self) -> None:
        """The client is gone: what it did not commit is given up, and its memory is the store's again."""
        if self._put is not None:
            self._put.abort()
        self.pages.close()
        self.store.tiered.disown(self.store.namespace, self.id)

    @property
    def _show(self) -> Show | None:
        """The pages that its client can open, if it can open any."""
        return self.pages.leading if self.device else None

    def _read(self, request: store_pb2.ReadRequest, deadline: Deadline) -> wire.SessionAnswer:
        opened = reading.opened(self.store, request, deadline, self.over, self._show)
        if self.device:
            return wire.SessionAnswer(granted=opened.granted, pages=self.pages.show(opened.sealed))
        memory, slots = self.store.tiered.memory.name, list[Slot]()
        with self.store.tiered.index.changed:
            for held in opened.sealed.holding.blocks[opened.first : opened.sealed.count]:
                if held.entry is None or held.tier != memory or not held.entry.slot.live:
                    break
                slots.append(held.entry.slot)
            places = self._places(slots)
        carried.read(self.store, "shared", places.sizes)
        return wire.SessionAnswer(granted=opened.granted, places=places)

    def _release(self, request: store_pb2.ReleaseRequest, deadline: Deadline) -> wire.SessionAnswer:
        verdicts = convert.verdicts(request.verdicts)
        lease = Lease(convert.identifier(request.lease, "lease"), len(verdicts), 0.0)
        self.store.release(lease, verdicts, timeout=deadline.remaining())
        return wire.SessionAnswer(release=store_pb2.ReleaseResponse())

    def _reserve(self, request: store_pb2.Reserve, deadline: Deadline) -> wire.SessionAnswer:
        self._check_writer()
        if self.lent:
            raise InvalidArgument("a session has one put open at a time: commit or abort the one before")
        self._put = put = SessionPut(self.store, request, deadline, self.id)
        places = self._places(entry.slot for entry in put.lent.values())
        places.blocks.extend(put.lent)
        return wire.SessionAnswer(write=put.answer(), places=places)

    def _check_writer(self) -> None:
        if not self.writer:
            raise PermissionDenied("this session is for reading; attach as a writer")

    def _places(self, slots: Iterable[Slot]) -> wire.Places:
        chosen = list(slots)
        # once for each slab: most blocks of a call lie in the same
        known = {id(slot.slab): slot.slab for slot in chosen}
        numbers = {same: self.slabs.number(slab) for same, slab in known.items()}
        return wire.Places(
            slabs=[numbers[id(slot.slab)] for slot in chosen],
            offsets=[slot.offset for slot in chosen],
            sizes=[slot.nbytes for slot in chosen],
            generations=[slot.generation for slot in chosen],
        )

    def _opened(self, put: bytes) -> SessionPut:
        if self._put is None or self._put.id != put:
            raise InvalidArgument("put names none that this session has open")
        return self._put
