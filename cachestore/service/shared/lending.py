"""A put whose planes the client lays into the store's memory by itself.

The memory is lent: no block of it is used again before the client committed it, gave the put up, or is gone. A put
whose time is over becomes invisible, but what was lent still counts.
"""

from collections.abc import Iterable, Sequence

from cachestore.deadline import Deadline
from cachestore.errors import Aborted, InvalidArgument
from cachestore.index import Entry
from cachestore.service import carried, convert, convert_put
from cachestore.service.stream import writing
from cachestore.store.base import Lease, PutAnswer, PutStatus
from cachestore.store.local import LocalStore
from cachestore.wire import session_pb2, store_pb2


class SessionPut:
    """One put of the session `owner`; `lent` has the blocks that the client may be writing, by number."""

    def __init__(self, store: LocalStore, request: store_pb2.Reserve, deadline: Deadline, owner: bytes) -> None:
        if request.groups:
            raise InvalidArgument(
                "reserve.groups: memory is lent to one writer at a time; put head groups over bulk or stream"
            )
        self._store = store
        self._alike = request.alike
        self._put = writing.reserved(store, request, deadline, owner)
        self.lent: dict[int, Entry] = self._put.lend()
        if not self.lent:
            self._put.abort()

    @property
    def id(self) -> bytes:
        """What names it."""
        return self._put.id

    def answer(self) -> store_pb2.WriteResponse:
        """What became of each block when they were reserved."""
        return store_pb2.WriteResponse(put=self.id, answers=self._messages(self._put.answers))

    def commit(self, message: session_pb2.SharedCommit) -> store_pb2.WriteResponse:
        """Publishes what the client laid. The put ends with the last of its blocks."""
        asked = store_pb2.Commit(blocks=message.blocks, lease_ms=message.lease_ms)
        blocks, ttl = convert_put.commit(asked, len(self._put.plans))
        if ttl:
            self._store.lease_ttl(ttl)
        try:
            if not self.lent:
                lease = self._lease(blocks, ttl)
            else:
                self._put.adopt(blocks)
                lease = carried.commit(self._put, blocks, ttl, "shared")
        finally:
            self._take_back(blocks)
            if not self.lent:
                self._put.abort()
        became = self._put.answers
        answers = self._messages([became[number] for number in blocks])
        return store_pb2.WriteResponse(
            put=self.id, answers=answers, lease=convert.lease_message(lease) if lease else None
        )

    def abort(self) -> int:
        """Gives up what is not committed; how many blocks that were. Aborting twice is allowed."""
        dropped = self._put.give_up()
        self._take_back(list(self.lent))
        return dropped

    def _messages(self, answers: Sequence[PutAnswer]) -> list[store_pb2.PutAnswer]:
        return convert_put.answer_messages(answers, alike=self._alike)

    def _lease(self, blocks: list[int], ttl: float) -> Lease | None:
        """What a commit grants when nothing is left to publish."""
        became = self._put.answers
        if any(became[number].status is PutStatus.WANTED for number in blocks):
            raise Aborted("the put is over")
        remaining = max(self._put.deadline.remaining(), 1e-3)
        return self._store.lease(self._put.chain, ttl=ttl, timeout=remaining) if ttl else None

    def _take_back(self, blocks: Iterable[int]) -> None:
        index = self._store.tiered.index
        with index.changed:
            for number in blocks:
                entry = self.lent.pop(number, None)
                if entry is not None:
                    index.leave(entry)
