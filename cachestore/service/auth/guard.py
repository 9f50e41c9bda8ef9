"""What stands around every method of a server: who calls, admission, deadlines, and errors from the one table.

Health and reflection are guarded like the rest, except that health answers even when the store is full.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, DeadlineExceeded, InvalidArgument, PermissionDenied, Unauthenticated
from cachestore.metrics import Counters
from cachestore.service import status
from cachestore.service.auth import tokens
from cachestore.service.auth.authority import Authority
from cachestore.service.auth.identity import Identity, Role, identify, identity_of
from cachestore.service.auth.methods import HEALTH, LEAST_ROLE, OF_PEERS, ON_BEHALF, OURS, WITHOUT_NAMESPACE
from cachestore.service.auth.shares import Places, Shares
from cachestore.service.budget import Budget
from cachestore.service.health.stalls import Stalls
from cachestore.service.stream import frames

MOST_NAME = 256
"""Bytes of a name that is watched: the library keeps every name that was ever asked for."""

HEALTH_SECONDS = 0.2
"""How long whoever asks for health may take to send the question, which fits beside the headers."""

STRANGERS = 8
"""How many may do so at a time without an identity; whoever has taken longest gives way to one more."""

Behavior = Callable[..., Any]
Parse = Callable[[bytes], Any]

if TYPE_CHECKING:
    # generic in the stubs, plain in the library
    Interceptor: TypeAlias = grpc.ServerInterceptor[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Interceptor = grpc.ServerInterceptor


def deadline_of(context: grpc.ServicerContext, longest: float) -> Deadline:
    """The caller's deadline; `longest` seconds from now if it brought none or a later one, and no longer than what it
    showed holds."""
    remaining, longest = context.time_remaining(), min(longest, _left(identity_of(context)))
    if remaining is not None and remaining <= 0:
        raise DeadlineExceeded("the deadline passed before the call was begun")
    if longest <= 0:
        raise Unauthenticated("what the caller showed expired before the call was begun; show another token")
    return Deadline.after(longest if remaining is None else min(remaining, longest))


def _left(identity: Identity) -> float:
    """Seconds for which what a caller showed still holds, with clocks as far apart as they may be."""
    return identity.expires + tokens.SKEW - time.time()


def _code(context: Any) -> grpc.StatusCode | None:
    code: grpc.StatusCode | None = context.code()
    return code


class Guard(Interceptor):
    """Wraps every handler of a server. `calls` bounds how many run at once, `authority` says who makes them.

    Whoever may not call is refused before anything of the request is read; `refused` counts them by reason. A call runs
    once its first message is there, for which `stalls` lets it wait; what waits so and what runs are its caller's
    `share`, as many as it likes by itself. `watches` is its share of the watches of health, which hold no thread.
    """

    def __init__(
        self,
        calls: Budget,
        longest_call: float,
        authority: Authority,
        stalls: Stalls,
        share: Shares | None = None,
        watches: Shares | None = None,
    ) -> None:
        self._calls = calls
        self._share = share or Shares(math.inf, calls.unit)
        self._watches = watches or Shares(math.inf, "watches of health")
        self._stalls = stalls
        self._longest = longest_call
        self._authority = authority
        self._strangers = Places(STRANGERS)
        self.refused = Counters()

    def open(self) -> None:
        """Reads the keys that identities are checked with. ConfigError if they cannot be used."""
        self._authority.open()

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler, guarded.

        All of them take streams of bytes, of which one message is a special case that looks alike on the wire: so a
        caller is known before a thread waits for its first message, and before anything of it is parsed.
        """
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        parser = frames.PARSERS.get(method, handler.request_deserializer)
        serialize = frames.serialized if method.startswith(OURS) else handler.response_serializer
        assert parser is not None
        parse = _tolerant(parser)
        if handler.stream_unary is not None:
            raise AssertionError(f"{method}: no method takes a stream and answers once")
        if handler.unary_unary is not None:
            once = self._health if method == HEALTH else self._once
            return grpc.stream_unary_rpc_method_handler(once(method, handler.unary_unary, parse), None, serialize)
        if handler.stream_stream is not None:
            call = self._stream(method, handler.stream_stream, lambda requests: map(parse, requests))
        elif getattr(handler.unary_stream, _CALLBACK, False):
            call = self._callback(method, handler.unary_stream, parse)
        else:
            call = self._stream(method, handler.unary_stream, lambda requests: parse(_only(requests)))
        return grpc.stream_stream_rpc_method_handler(call, None, serialize)

    def _once(self, method: str, behavior: Behavior, parse: Parse) -> Behavior:
        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            with self._errors(method, context):
                identity = self._authorize(method, context)
                if not method.startswith(OURS):
                    with self._bounded(context, HEALTH_SECONDS):
                        return behavior(parse(_only(requests)), context)
                with self._share.hold(identity), self._bounded(context, _left(identity)):
                    data = _only(self._begun(requests, context))
                    with self._calls.hold(1):
                        return behavior(parse(data), context)

        return call

    def _stream(self, method: str, behavior: Behavior | None, parse: Callable[[Iterator[bytes]], Any]) -> Behavior:
        assert behavior is not None
        # reflection answers a few questions and is done
        most = self._longest if method.startswith(OURS) else self._stalls.seconds

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._errors(method, context):
                identity = self._authorize(method, context)
                with self._share.hold(identity), self._bounded(context, min(most, _left(identity))):
                    begun = self._begun(requests, context)
                    with self._calls.hold(1):
                        yield from behavior(parse(begun), context)

        return call

    def _callback(self, method: str, behavior: Behavior | None, parse: Parse) -> Behavior:
        # health's Watch: it answers through a callback for as long as what the caller showed holds, and holds no thread
        # of the server meanwhile
        assert behavior is not None

        def call(requests: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
            with self._errors(method, context), ExitStack() as held:
                identity = self._authorize(method, context)
                held.enter_context(self._watches.hold(identity))
                with self._bounded(context, HEALTH_SECONDS):
                    data = _only(requests)
                if len(data) > MOST_NAME:
                    raise InvalidArgument(f"the name of a service has at most {MOST_NAME} bytes")
                if identity.expires < math.inf:
                    held.enter_context(_ending(context, max(0.0, _left(identity))))
                behavior(parse(data), context, send)
                end = held.pop_all().close
                if not context.add_callback(end):
                    end()

        for name in (_CALLBACK, _POOL):
            setattr(call, name, getattr(behavior, name, None))
        return call

    def _health(self, method: str, behavior: Behavior, parse: Parse) -> Behavior:
        # anybody may ask how the whole server is, which is the empty message; to see that it must be read
        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            with self._errors(method, context):
                refusal: CacheStoreError | None = None
                try:
                    self._authorize(method, context)
                except (Unauthenticated, PermissionDenied) as error:
                    refusal = error
                with (
                    self._strangers.hold(context.cancel) if refusal else nullcontext(),
                    self._bounded(context, HEALTH_SECONDS),
                ):
                    data = _only(requests)
                if refusal and data:
                    raise refusal
                return behavior(parse(data), context)

        return call

    def _begun(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The messages, once the first is there: whoever sends headers only stands still, and holds up nobody."""
        with self._stalls.watched(context) as peer:
            first = next(peer.received(requests), None)
        return chain((first,), requests) if first is not None else iter(())

    def _authorize(self, method: str, context: grpc.ServicerContext) -> Identity:
        """Who calls, said to the rest too; Unauthenticated or PermissionDenied unless they may."""
        identity = self._authority.identify(context)
        least, name = LEAST_ROLE.get(method), method.rpartition("/")[2]
        if least is None:
            raise PermissionDenied(f"nobody may call {name}: no role is set for it")
        # only a delegate's call carries a tenant's token; the tenant itself may do less
        role = Role.delegate if identity.tenant and method in ON_BEHALF else identity.role
        if role < least and not (role is Role.peer and method in OF_PEERS):
            raise PermissionDenied(f"{name} needs the role {least.name}, and {identity.name} is {role.name}")
        if not identity.namespace and method not in WITHOUT_NAMESPACE:
            raise PermissionDenied(f"{identity.name} acts only for tenants; send the token of one with {name}")
        identify(context, identity)
        return identity

    @contextmanager
    def _errors(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        name = method.rpartition("/")[2]
        try:
            yield
        except Exception as error:
            if not context.is_active():
                # the caller left or ran out of time and has its status already; what broke thereby is no bug
                context.abort(grpc.StatusCode.CANCELLED, "the caller is gone")
            if isinstance(error, NotImplementedError) and _code(context) is grpc.StatusCode.UNIMPLEMENTED:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not served by this release")
            if isinstance(error, Unauthenticated | PermissionDenied):
                self.refused.add("calls_refused", reason=error.reason)
            answer = status.answer(error, name)
            context.set_trailing_metadata(answer.trailers)
            context.abort(answer.code, answer.text)

    @contextmanager
    def _bounded(self, context: grpc.ServicerContext, longest: float) -> Iterator[None]:
        # gRPC ends a call at the caller's deadline; one without would wait for its peer for ever
        remaining, most = context.time_remaining(), min(longest, self._longest)
        if remaining is not None and remaining <= most:
            yield
            return
        with _ending(context, most):
            yield


@contextmanager
def _ending(context: grpc.ServicerContext, seconds: float) -> Iterator[None]:
    """Ends a call after so many seconds, unless the context is left before."""
    timer = Timer(seconds, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_CALLBACK = "experimental_non_blocking"
_POOL = "experimental_thread_pool"
"""How a handler of gRPC's Python says that it answers through a callback, and on which threads."""


def _only(requests: Iterator[bytes]) -> bytes:
    """The one message of a call."""
    data = next(requests, None)
    if data is None:
        raise InvalidArgument("this method takes one message, and there was none")
    return data


def _tolerant(parser: Parse) -> Parse:
    def parse(data: bytes) -> Any:
        try:
            return parser(data)
        except DecodeError:
            raise InvalidArgument(
                "the request's bytes are no message of this method; use the contract of this release"
            ) from None

    return parse
