"""What the store says of itself: `grpc.health.v1`, for the whole, for each tier and for each way to its blocks.

    ""                        whether it takes calls: what a load balancer looks at
    cachestore.v1.CacheStore  the same
    tier/<name>               whether blocks can be kept in that tier now
    path/<name>               whether blocks travel that way now: stream, shared, bulk; with others, to them: peers

A tier or a path that is down takes nothing from the whole: blocks are kept elsewhere, travel otherwise, or are computed
anew. A name that is UNKNOWN has not been looked at yet.

The library's servicer has no list and no end for those who watch, and sends to them under the lock that every question
takes: one that stands still would silence it for all.
"""

from collections.abc import Callable
from threading import Lock, Timer
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthServicer

from cachestore.errors import Overloaded
from cachestore.wire import store_pb2

SERVICE = store_pb2.DESCRIPTOR.services_by_name["CacheStore"].full_name

WATCHES = 256
"""Watches at once: what is said is said to each."""

SEND_SECONDS = 1.0
"""How long those who watch may keep each other waiting; whoever then stands still, or was not told, is cut off."""

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
UNKNOWN, UNHEARD_OF = HealthCheckResponse.UNKNOWN, HealthCheckResponse.SERVICE_UNKNOWN

Send = Callable[[HealthCheckResponse | None], None]


class Health(HealthServicer):  # type: ignore[misc]
    """Begins with a whole that serves. Each says what is true of a name as it changes; after `leave` nothing serves."""

    def __init__(self) -> None:
        self._said: dict[str, Any] = {"": SERVING, SERVICE: SERVING}
        self._watching: dict[object, tuple[str, grpc.ServicerContext, Send]] = {}
        self._left = self._ended = False
        # held while those who watch are told, so that nobody hears an older status last; questions do not take it
        self._telling = Lock()

    def say(self, name: str, status: Any) -> None:
        """What is true of a name from now on."""
        with self._telling:
            self._tell(name, status)

    def leave(self) -> None:
        """Nothing serves any more, whatever is said later."""
        with self._telling:
            for name in list(self._said):
                self._tell(name, NOT_SERVING)
            self._left = True

    def end(self) -> None:
        """Ends every watch, and those that still come."""
        with self._telling:
            self._ended = True
            sends = [send for _, _, send in self._watching.values()]
        for send in sends:
            send(None)

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        """The status of one name; NOT_FOUND for one that is none."""
        status = self._said.get(request.service)
        if status is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such name; List tells those there are")
        return HealthCheckResponse(status=status or UNKNOWN)

    def List(self, request: HealthListRequest, context: grpc.ServicerContext) -> HealthListResponse:
        """Every name at once."""
        said = {name: HealthCheckResponse(status=status) for name, status in dict(self._said).items()}
        return HealthListResponse(statuses=said)

    def Watch(self, request: HealthCheckRequest, context: grpc.ServicerContext, send: Send) -> None:
        """The status of one name now, and whenever it changes."""
        with self._telling:
            if len(self._watching) >= WATCHES:
                raise Overloaded(f"{WATCHES} watch the store's health already; ask with Check instead")
            _sent([(context, send)], self._said.get(request.service, UNHEARD_OF))
            if self._ended:
                send(None)
                return
            watch = object()
            self._watching[watch] = request.service, context, send

        def gone() -> None:
            self._watching.pop(watch, None)

        if not context.add_callback(gone):
            gone()

    # answers through `send`, and holds no thread of the server meanwhile
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def _tell(self, name: str, status: Any) -> None:
        if self._left or self._said.get(name) == status:
            return
        self._said = {**self._said, name: status}
        _sent([watch[1:] for watch in list(self._watching.values()) if watch[0] == name], status)


def _sent(waiting: list[tuple[Any, Send]], status: Any) -> None:
    def cut() -> None:
        for context, _ in list(waiting):
            context.cancel()

    timer = Timer(SEND_SECONDS, cut)
    timer.daemon = True
    timer.start()
    try:
        while waiting:
            waiting[0][1](HealthCheckResponse(status=status))
            del waiting[0]
    finally:
        timer.cancel()
