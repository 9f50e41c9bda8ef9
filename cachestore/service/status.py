"""The one table between our errors and gRPC's status codes.

Every failed call carries two trailers: `kv-reason`, the error's stable word, and `retryable`, `1` or `0`. The client
turns them back into the same class with the server's text. Want of memory is RESOURCE_EXHAUSTED. Whatever else is not
in our error tree is a bug: the caller gets INTERNAL with an opaque id, and the log has the traceback under that id.
"""

import logging
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc

from cachestore import errors
from cachestore.errors import CacheStoreError, InternalError, Overloaded

REASON = "kv-reason"
RETRYABLE = "retryable"
LONGEST_TEXT = 512

CODES: dict[type[CacheStoreError], grpc.StatusCode] = {
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedModel: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Mismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LeaseExpired: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DurabilityUnmet: grpc.StatusCode.UNAVAILABLE,
    errors.Untrusted: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}

_BY_REASON = {error.reason: error for error in CODES}

# codes that gRPC itself or a proxy gives, without our trailers
_BY_CODE: dict[grpc.StatusCode, type[CacheStoreError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Mismatch,
    grpc.StatusCode.UNIMPLEMENTED: errors.Mismatch,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Aborted,
    grpc.StatusCode.ABORTED: errors.Aborted,
    # a bug in the service would have our trailers: what broke is the connection
    grpc.StatusCode.INTERNAL: errors.Unavailable,
    grpc.StatusCode.UNKNOWN: errors.Unavailable,
}

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """How a failed call ends."""

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, str], ...]


def answer(error: BaseException, method: str) -> Answer:
    """How the server ends a call that raised `error`. A bug of ours is logged here, and only here."""
    if isinstance(error, MemoryError):
        _log.error("%s failed for want of memory", method)
        error = Overloaded("the store has no memory left for this call; try again later, or give it more")
    if not isinstance(error, CacheStoreError):
        opaque = secrets.token_hex(8)
        _log.error("%s failed, id %s", method, opaque, exc_info=error)
        error = InternalError(f"internal error {opaque}; the server's log has the rest under this id")
    code = next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), grpc.StatusCode.INTERNAL)
    trailers = ((REASON, error.reason), (RETRYABLE, "1" if error.retryable else "0"))
    return Answer(code, str(error)[:LONGEST_TEXT], trailers)


def named(reason: str, text: str) -> CacheStoreError:
    """The error whose reason this is, with the server's text."""
    return _BY_REASON.get(reason, InternalError)(text)


def error_of(
    call: grpc.RpcError, method: str, address: str, what: str = "store", start: str = "cachestore serve"
) -> CacheStoreError:
    """What the client raises for a failed call: the server's own error, or what gRPC's code means.

    `what` should answer at `address`, and `start` is the command that starts one.
    """
    code: grpc.StatusCode = call.code()
    text: str = call.details() or code.name
    trailers: Sequence[Any] = call.trailing_metadata() or ()
    known = _BY_REASON.get(next((str(value) for key, value in trailers if key == REASON), ""))
    if known is not None and CODES[known] is code:
        return known(text)
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.Unavailable(f"no {what} answers at {address} ({text}); is `{start}` running there?")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(f"{method}: the {what} at {address} did not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.Mismatch(f"the {what} at {address} does not know {method}; it is of another release")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return errors.TooLarge(f"{method}: {text}")
    return _BY_CODE.get(code, InternalError)(f"{method}: {text}")
