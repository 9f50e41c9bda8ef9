"""Failures in OpenAI's words: an HTTP status, and `{"error": {"message", "type", "param", "code"}}`."""

import logging
import secrets
from typing import Any

from pydantic import ValidationError

from cachestore import errors
from cachestore.errors import CacheStoreError

RETRY_AFTER = 1
"""Seconds after which a client that was refused for load may come back."""

_log = logging.getLogger(__name__)

INVALID, SERVER = "invalid_request_error", "server_error"

UNKNOWN = "unknown_field"
"""The type of a validation error for a field that is not known; its context holds the `name`."""

NEEDS = "needs_another_field"
"""The type of a validation error for a field that needs another; its context holds the `name` of the former."""

_STATUS: dict[type[CacheStoreError], tuple[int, str, str]] = {
    errors.TooLarge: (400, INVALID, "context_length_exceeded"),
    errors.InvalidArgument: (400, INVALID, "invalid_value"),
    errors.Overloaded: (429, "rate_limit_error", "overloaded"),
    errors.Unavailable: (503, SERVER, "unavailable"),
    errors.DeadlineExceeded: (504, SERVER, "timeout"),
    errors.Aborted: (503, SERVER, "aborted"),
}
"""HTTP status, OpenAI's type and code; what is not here is between the gateway and the cluster, and says no more."""


class ApiError(Exception):
    """What a client is told: an HTTP status and OpenAI's error object."""

    def __init__(
        self, status: int, message: str, *, kind: str = INVALID, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, for those who should."""
        return {"Retry-After": str(RETRY_AFTER)} if self.status in (429, 503) else {}


def invalid(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """A request that cannot be meant; `param` is the field."""
    return ApiError(400, message, param=param, code=code)


def unauthorized(message: str) -> ApiError:
    """A key that is missing or unknown."""
    return ApiError(401, message, code="invalid_api_key")


def api_error(error: BaseException) -> ApiError:
    """What a client is told of any failure. A bug of ours is logged here, and only here, under an opaque id."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ValidationError):
        return _of_validation(error)
    for cls in type(error).__mro__:
        if cls in _STATUS:
            status, kind, code = _STATUS[cls]
            return ApiError(status, str(error), kind=kind, code=code)
    opaque = secrets.token_hex(8)
    _log.error("a request failed, id %s", opaque, exc_info=error)
    return ApiError(500, f"internal error {opaque}; the gateway's log has the rest under this id", kind=SERVER)


def _of_validation(error: ValidationError) -> ApiError:
    # of a union every member complains; the first one of the deepest is what was probably meant
    found = error.errors(include_url=False, include_input=False)
    first = max(found, key=lambda each: len(_place(each["loc"])))
    place = _place(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in (UNKNOWN, NEEDS):
        # pydantic places it at the object that has the field
        param = _param((*place, first["ctx"]["name"]))
        code = "unsupported_parameter" if first["type"] == UNKNOWN else "invalid_value"
        return ApiError(400, f"{param} {message}", param=param, code=code)
    param = _param(place)
    if first["type"] == "missing":
        # the last part is the field's own name, whatever it is
        param = _param((*_place(first["loc"][:-1]), first["loc"][-1]))
        return ApiError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    code = "invalid_type" if first["type"].endswith("_type") else "invalid_value"
    return ApiError(400, f"{param}: {message}" if param else message, param=param or None, code=code)


def _place(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without the names that pydantic gives to the members of a union."""
    return tuple(each for each in loc if isinstance(each, int) or (each.isidentifier() and each not in _MEMBERS))


_MEMBERS = frozenset({"str", "int", "float", "bool", "none", "TextPart", "text", "texts", "tokens", "many"})


def _param(place: tuple[int | str, ...]) -> str:
    """As OpenAI writes it: messages[0].content."""
    text = ""
    for each in place:
        text += f"[{each}]" if isinstance(each, int) else f".{each}" if text else each
    return text
