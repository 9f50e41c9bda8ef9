"""The transport of one device: blocks come from the pages of other workers on it, as far as they are in any."""

import logging
import time
from functools import partial

from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.service.convert_put import Reservation
from cachestore.service.pages.session import PageSession
from cachestore.service.pages.sessions import Sessions
from cachestore.service.pages.source import PageSource
from cachestore.service.shared.client import Lost
from cachestore.service.shared.sessions import ATTACH_SECONDS, PAUSE
from cachestore.service.transport import Asked
from cachestore.wire import session_pb2, store_pb2

log = logging.getLogger(__name__)


class Pages:
    """Follows `cachestore.service.transport.Transport`: for reads alone."""

    name = "pages"

    def __init__(self, sessions: Sessions, *, verify: bool) -> None:
        self._sessions = sessions
        self._verify = verify
        self._not_before = 0.0

    def read(self, asked: Asked, deadline: Deadline) -> PageSource | None:
        session = self._taken(deadline)
        if session is None:
            return None
        ask, ended = partial(self._sessions.ask, session), partial(self._sessions.give, session)
        asked_at = time.monotonic()
        try:
            answer = ask(session_pb2.SessionRequest(read=asked.request), deadline)
        except Lost:
            ended()
            return None
        except BaseException:
            ended()
            raise
        return PageSource(
            asked, session, self._sessions.memory, ask, answer, asked_at, 0, deadline,
            verify=self._verify, failed=self._failed, ended=ended,
        )  # fmt: skip

    def put(self, reservation: Reservation, codec: Codec, deadline: Deadline) -> None:
        return None

    def lookup(self, request: store_pb2.LookupRequest, deadline: Deadline) -> store_pb2.LookupResponse | None:
        """What the store answers to who can open these pages; None if this way is not open."""
        answer = self._asked(session_pb2.SessionRequest(lookup=request), deadline)
        return answer.lookup if answer is not None else None

    def release(self, request: store_pb2.ReleaseRequest, timeout: float) -> None:
        deadline = Deadline.after(timeout)
        if self._asked(session_pb2.SessionRequest(release=request), deadline) is None:
            self._sessions.connection.call("Release", request, max(deadline.remaining(), 1e-3))

    def close(self) -> None:
        self._sessions.close()

    def _asked(self, request: session_pb2.SessionRequest, deadline: Deadline) -> session_pb2.SessionAnswer | None:
        """The answer to one request that stands alone; None if this way is not open. Raises what is said instead."""
        session = self._taken(deadline)
        if session is None:
            return None
        try:
            return self._sessions.ask(session, request, deadline)
        except Lost:
            return None
        finally:
            self._sessions.give(session)

    def _taken(self, deadline: Deadline) -> PageSession | None:
        until = Deadline.after(min(ATTACH_SECONDS, deadline.remaining()))
        if time.monotonic() < self._not_before or not until.remaining():
            return None
        try:
            return self._sessions.take(until)
        except CacheStoreError as error:
            self._failed(str(error))
            return None

    def _failed(self, why: str) -> None:
        log.warning("other workers' pages cannot be read now, and are not for %.0f s: %s", PAUSE, why)
        self._not_before = time.monotonic() + PAUSE
