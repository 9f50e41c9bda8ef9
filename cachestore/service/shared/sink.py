"""Where the planes of one put go on this node: into the store's own memory, with the code of a put in its process."""

from collections.abc import Mapping, Sequence
from itertools import count
from threading import RLock

from cachestore.block import Buffer, Into
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.codecs.planes import encode_plane, holds
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, CacheStoreError, Unavailable
from cachestore.service import convert_put
from cachestore.service.convert_put import Reservation
from cachestore.service.shared.client import Lost, SharedSession
from cachestore.service.shared.lent import Lent
from cachestore.service.shared.sessions import SharedSessions
from cachestore.store.base import PutAnswer
from cachestore.store.spread import Spread
from cachestore.wire import session_pb2, store_pb2

ABORT_SECONDS = 1.0
"""What telling of an abort may take; unheard, it happens with the end of the session."""

LATE_SECONDS = 0.1
"""The same once the put's time is over."""


class SharedSink:
    """Follows `cachestore.service.transport.Sink`. It keeps its session to itself until the put is over.

    `reserved` is the store's answer to the reservation, which it got over that session.
    """

    def __init__(
        self,
        sessions: SharedSessions,
        session: SharedSession,
        address: str,
        reservation: Reservation,
        codec: Codec,
        reserved: session_pb2.SessionAnswer,
        deadline: Deadline,
    ) -> None:
        self._sessions = sessions
        self._session: SharedSession | None = session
        self._address = address
        self._codec = codec
        self._deadline = deadline
        self._id = reserved.write.put
        self._answers = convert_put.answers(reserved.write.answers)
        numbers, places = reserved.places.blocks, session.places(reserved.places)
        if len(numbers) != len(places):
            raise Lost
        self._open = Lent(numbers, places, [reservation.plans[number].planes for number in numbers])
        self._writes = count(1)
        # what the store has not answered a commit of: it counts as being written until it hears of it
        self._lent = self._open.numbers
        # an abort gives the memory to others, so it waits for what is being written
        self._writing = RLock()

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return self._answers

    def write(self, block: int, planes: range, data: Buffer) -> None:
        self._deadline.check("writing")
        with self._writing:
            self._opened()
            lent = self._open.one(block)
            if lent is None:
                return
            laying, front = lent
            if self._codec.id == RAW:
                laying.append_run(laying.layout.run(block, planes.start, data), data)
                front.laid(planes, laying.table(), next(self._writes))
                return
            at = 0
            for number in planes:
                plane = laying.layout.planes[number]
                laying.append(number, encode_plane(self._codec, data[at : at + plane.raw_bytes], plane))
                front.laid(range(number, number + 1), laying.table(), next(self._writes))
                at += plane.raw_bytes

    def write_encoded(self, block: int, plane: int, encoded: Sequence[Encoded]) -> None:
        self._deadline.check("writing")
        with self._writing:
            self._opened()
            lent = self._open.one(block)
            if lent is None:
                return
            laying, front = lent
            for number, each in enumerate(encoded, plane):
                # the store would not look: what is not numbered as laid fails its block there
                if holds(each, laying.append(number, each)):
                    front.laid(range(number, number + 1), laying.table(), next(self._writes))

    def lay(self, blocks: Mapping[int, Into] | Spread, wanted: Sequence[int]) -> None:
        self._deadline.check("writing")
        with self._writing:
            self._opened()
            self._open.lay(blocks, wanted, self._writes)

    def commit(self, blocks: Sequence[int], lease_ms: int) -> store_pb2.WriteResponse:
        with self._writing:
            # also where it is refused: the memory may be another block's by then
            self._open.give(blocks)
            commit = session_pb2.SharedCommit(put=self._id, blocks=blocks, lease_ms=lease_ms)
            answer = self._asked(session_pb2.SessionRequest(commit=commit)).write
            self._lent.difference_update(blocks)
            return answer

    def abort(self) -> None:
        with self._writing:
            session = self._session
            if session is None:
                return
            try:
                if self._lent:
                    request = session_pb2.SessionRequest(abort=store_pb2.AbortRequest(put=self._id))
                    session.ask(request, max(LATE_SECONDS, min(ABORT_SECONDS, self._deadline.remaining())))
            except (CacheStoreError, Lost):
                # the end of the session gives up what it could not be told of
                session.close()
            self._session = None
            self._open.give(list(self._open.numbers))
            self._sessions.give(session, writer=True)

    def _asked(self, request: session_pb2.SessionRequest) -> session_pb2.SessionAnswer:
        try:
            return self._opened().ask(request, max(self._deadline.remaining(), 1e-3))
        except Lost:
            raise Unavailable(f"the store at {self._address} ended the put") from None

    def _opened(self) -> SharedSession:
        if self._session is None:
            raise Aborted("the put is over")
        return self._session
