"""Puts that are reserved on a connection itself: whoever has shown a ticket there needs no call any more.

What bounds a call bounds them too: the caller's role and share, how many run at once, deadlines, the server's end.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, InvalidArgument, PermissionDenied, Unauthenticated
from cachestore.service import convert_put
from cachestore.service.auth import tokens
from cachestore.service.auth.identity import Identity
from cachestore.service.auth.methods import LEAST_ROLE
from cachestore.service.auth.shares import Shares
from cachestore.service.budget import Budget
from cachestore.service.bulk.answers import answer, refuse
from cachestore.service.bulk.format import MOST_MESSAGE
from cachestore.service.bulk.line import Line
from cachestore.service.bulk.receiving import Planes
from cachestore.service.health.draining import Drain, draining
from cachestore.service.settings import ServiceSettings
from cachestore.service.stream.writing import reserved
from cachestore.service.tickets import TICKET_SECONDS
from cachestore.store.put import LocalPut
from cachestore.store.tiered import TieredStore
from cachestore.wire import session_pb2
from cachestore.wire import store_pb2 as wire


@dataclass(eq=False)
class Admission:
    """Who may put, and how much at once. `calls` and each caller's `share` of them are those of gRPC too."""

    store: TieredStore
    settings: ServiceSettings
    calls: Budget
    share: Shares
    drain: Drain

    @contextmanager
    def put(self, caller: Identity, message: bytes) -> Iterator[tuple[LocalPut, wire.WriteResponse]]:
        """The put that a message of `caller` reserves and its answer, while the context lasts; raises what refuses."""
        least = LEAST_ROLE["/cachestore.v1.CacheStore/Write"]
        if caller.role < least:
            raise PermissionDenied(f"Write needs the role {least.name}, and {caller.name} is {caller.role.name}")
        if self.drain.begun:
            raise draining()
        try:
            request = session_pb2.SessionRequest.FromString(message)
        except DecodeError:
            raise InvalidArgument("the request's bytes are no message; use the contract of this release") from None
        if not request.HasField("reserve"):
            raise InvalidArgument("the request must be `reserve`")
        deadline = self._deadline(caller, request.timeout_ms / 1000)
        with (
            self.share.hold(caller),
            self.calls.hold(1),
            reserved(self.store.namespace(caller.namespace), request.reserve, deadline) as put,
        ):
            yield put, convert_put.reserved_message(put.id, put.answers, request.reserve)

    def _deadline(self, caller: Identity, seconds: float) -> Deadline:
        """As for a call: none means the longest, and none outlasts what the caller showed."""
        longest = min(self.settings.longest_call, caller.expires + tokens.SKEW - time.time())
        if longest <= 0:
            raise Unauthenticated("what the caller showed expired; show another token")
        return Deadline.after(min(seconds or longest, longest))


@dataclass(eq=False)
class Reserving:
    """A put that `caller`, who is known on its line, reserves there in a message of `holds` bytes."""

    caller: Identity
    holds: int
    admission: Admission

    def run(self, line: Line) -> None:
        """Answers, and takes planes and commits until the writer is done. A put that is refused breaks no line."""
        if self.holds > MOST_MESSAGE:
            raise InvalidArgument(f"a reservation has at most {MOST_MESSAGE} bytes, got {self.holds}")
        soon = Deadline.after(TICKET_SECONDS)
        message = line.take(self.holds, soon)
        with ExitStack() as held:
            try:
                put, reserved = held.enter_context(self.admission.put(self.caller, message))
            except Exception as error:
                return refuse(line, error, soon)
            answer(line, reserved, put.deadline)
            try:
                Planes(put, self.admission.settings.stall).run(line)
            except CacheStoreError as error:
                # there is no call that would end with it; and the put's own time may be over
                with suppress(OSError):
                    refuse(line, error, Deadline.after(TICKET_SECONDS))
                raise
