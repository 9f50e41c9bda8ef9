"""The transport of one device: blocks come from the pages of other workers on it, as far as they are in any."""

import logging
import time
from functools import partial

from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.service.convert_put import Reservation
from cachestore.service.pages.attached import Attached
from cachestore.service.pages.source import PageSource
from cachestore.service.shared.client import Lost
from cachestore.service.shared.sessions import ATTACH_SECONDS, PAUSE
from cachestore.service.transport import Asked
from cachestore.wire import session_pb2, store_pb2

log = logging.getLogger(__name__)


class Pages:
    """Follows `cachestore.service.transport.Transport`: for reads alone, and of blocks that nobody waits for."""

    name = "pages"

    def __init__(self, attached: Attached, *, verify: bool) -> None:
        self._attached = attached
        self._verify = verify
        self._not_before = 0.0

    def read(self, asked: Asked, deadline: Deadline) -> PageSource | None:
        until = Deadline.after(min(ATTACH_SECONDS, deadline.remaining()))
        if time.monotonic() < self._not_before or not until.remaining():
            return None
        asked_at = time.monotonic()
        try:
            session = self._attached.session(until)
        except CacheStoreError as error:
            self._failed(str(error))
            return None
        ask = partial(self._attached.ask, session)
        try:
            answer = ask(session_pb2.SessionRequest(read=asked.request), deadline)
        except Lost:
            return None
        return PageSource(
            asked, session, self._attached.memory, ask, answer, asked_at, 0, deadline,
            verify=self._verify, failed=self._failed,
        )  # fmt: skip

    def put(self, reservation: Reservation, codec: Codec, deadline: Deadline) -> None:
        return None

    def lookup(self, request: store_pb2.LookupRequest, deadline: Deadline) -> store_pb2.LookupResponse | None:
        """What the store answers to who can open these pages; None if this way is not open."""
        if time.monotonic() < self._not_before:
            return None
        try:
            session = self._attached.session(deadline)
            return self._attached.ask(session, session_pb2.SessionRequest(lookup=request), deadline).lookup
        except (CacheStoreError, Lost):
            return None

    def release(self, request: store_pb2.ReleaseRequest, timeout: float) -> None:
        deadline = Deadline.after(timeout)
        try:
            session = self._attached.session(deadline)
            self._attached.ask(session, session_pb2.SessionRequest(release=request), deadline)
        except Lost:
            self._attached.connection.call("Release", request, max(deadline.remaining(), 1e-3))

    def close(self) -> None:
        self._attached.close()

    def _failed(self, why: str) -> None:
        log.warning("other workers' pages cannot be read now, and are not for %.0f s: %s", PAUSE, why)
        self._not_before = time.monotonic() + PAUSE
