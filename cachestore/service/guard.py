"""What stands around every method: admission, deadlines, and errors from the one table.

It guards our own service only; health and reflection answer even when the store is full.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from cachestore.deadline import Deadline
from cachestore.errors import DeadlineExceeded, InvalidArgument
from cachestore.service import frames, status
from cachestore.service.budget import Budget

GUARDED = "/cachestore.v1."

Behavior = Callable[[Any, grpc.ServicerContext], Any]

if TYPE_CHECKING:
    # generic in the stubs, plain in the library
    Interceptor: TypeAlias = grpc.ServerInterceptor[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Interceptor = grpc.ServerInterceptor


def deadline_of(context: grpc.ServicerContext, longest: float) -> Deadline:
    """The caller's deadline, or `longest` seconds from now if it brought none or a later one."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise DeadlineExceeded("the deadline passed before the call was begun")
    return Deadline.after(longest if remaining is None else min(remaining, longest))


class _Unreadable:
    """Stands for request bytes that are no message, so that refusing them is ours and not gRPC's."""


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    assert deserialize is not None

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable()

    return parse


def _code(context: Any) -> grpc.StatusCode | None:
    code: grpc.StatusCode | None = context.code()
    return code


def _readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise InvalidArgument("the request's bytes are no message of this method; use the contract of this release")
    return request


class Guard(Interceptor):
    """Wraps every handler of the service. `calls` bounds how many run at once."""

    def __init__(self, calls: Budget, longest_call: float) -> None:
        self._calls = calls
        self._longest = longest_call

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler, guarded if it is one of ours."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(GUARDED):
            return handler
        name = method.rpartition("/")[2]
        parse = _tolerant(frames.PARSERS.get(method, handler.request_deserializer))
        serialize = frames.serialized
        if handler.stream_unary is not None:
            raise AssertionError(f"{name}: no method takes a stream and answers once")
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._both(name, handler.stream_stream), parse, serialize)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(name, handler.unary_stream), parse, serialize)
        assert handler.unary_unary is not None
        return grpc.unary_unary_rpc_method_handler(self._unary(name, handler.unary_unary), parse, serialize)

    def _unary(self, name: str, behavior: Behavior) -> Behavior:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            with self._errors(name, context), self._calls.hold(1):
                return behavior(_readable(request), context)

        return call

    def _stream(self, name: str, behavior: Behavior) -> Behavior:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._errors(name, context), self._calls.hold(1), self._bounded(context):
                yield from behavior(_readable(request), context)

        return call

    def _both(self, name: str, behavior: Behavior) -> Behavior:
        def call(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._errors(name, context), self._calls.hold(1), self._bounded(context):
                yield from behavior(map(_readable, requests), context)

        return call

    @contextmanager
    def _errors(self, name: str, context: grpc.ServicerContext) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not context.is_active():
                # the caller left or ran out of time and has its status already; what broke thereby is no bug
                context.abort(grpc.StatusCode.CANCELLED, "the caller is gone")
            if isinstance(error, NotImplementedError) and _code(context) is grpc.StatusCode.UNIMPLEMENTED:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not served by this release")
            answer = status.answer(error, name)
            context.set_trailing_metadata(answer.trailers)
            context.abort(answer.code, answer.text)

    @contextmanager
    def _bounded(self, context: grpc.ServicerContext) -> Iterator[None]:
        # gRPC ends a call at the caller's deadline; a stream without one would wait for its peer for ever
        remaining = context.time_remaining()
        if remaining is not None and remaining <= self._longest:
            yield
            return
        timer = Timer(self._longest, context.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
