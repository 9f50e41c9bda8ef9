"""How a server ends in order: what would begin is refused, what could go on for ever ends, the rest may finish."""

import time
from collections.abc import Callable, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

from cachestore.errors import Unavailable
from cachestore.service import status
from cachestore.service.budget import Budget

LOOK_SECONDS = 0.02
"""How often it is looked whether calls still run."""

OTHERS = "/grpc."
"""Begins the methods that tell how the server is: they are answered to the end."""

ENDING = frozenset(f"/cachestore.v1.CacheStore/{method}" for method in ("Release", "Abort"))
"""What ends something that was begun before."""

if TYPE_CHECKING:
    # generic in the stubs, plain in the library
    Interceptor: TypeAlias = grpc.ServerInterceptor[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Interceptor = grpc.ServerInterceptor


class Drain(Interceptor):
    """Stands before everything else; `calls` counts those that run, and `begun` says that the end has begun."""

    def __init__(self, calls: Budget) -> None:
        self._calls = calls
        self.begun = False
        self._ends: dict[object, Callable[[], object]] = {}
        self._lock = Lock()

    def begin(self) -> None:
        """From now on calls are refused; what asked to be told ends."""
        with self._lock:
            self.begun = True
            ends = list(self._ends.values())
        for end in ends:
            end()

    def settle(self, seconds: float, busy: Callable[[], bool]) -> float:
        """Waits until no call runs and nothing else is `busy`, `seconds` at most; what is left of them."""
        until = time.monotonic() + seconds
        while (self._calls.used or busy()) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        return max(0.0, until - time.monotonic())

    def told(self, context: grpc.ServicerContext, end: Callable[[], object]) -> bool:
        """Calls `end` when the server is about to end, or the caller leaves; False if that has happened already."""
        name = object()
        with self._lock:
            if self.begun:
                return False
            self._ends[name] = end

        def gone() -> None:
            self._ends.pop(name, None)
            end()

        if context.add_callback(gone):
            return True
        self._ends.pop(name, None)
        return False

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler; once the end has begun, one that refuses."""
        method = handler_call_details.method
        if not self.begun or method.startswith(OTHERS) or method in ENDING:
            return continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_refuse)


def draining() -> Unavailable:
    """What a caller is told who would begin something new."""
    return Unavailable("this store is draining: it ends soon; call another one")


def _refuse(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    answer = status.answer(draining(), "")
    context.set_trailing_metadata(answer.trailers)
    context.abort(answer.code, answer.text)
