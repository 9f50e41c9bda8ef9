import logging

import grpc
import pytest

from cachestore import errors
from cachestore.service import status


class Failed(grpc.RpcError):
    """A failed call as the client sees it."""

    def __init__(self, code: grpc.StatusCode, text: str = "", trailers: tuple[tuple[str, str], ...] = ()) -> None:
        self._code, self._text, self._trailers = code, text, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailers


def everything(root: type[errors.CacheStoreError]) -> set[type[errors.CacheStoreError]]:
    return {root}.union(*(everything(cls) for cls in root.__subclasses__()))


def test_every_error_of_the_tree_is_in_the_table() -> None:
    assert set(status.CODES) == everything(errors.CacheStoreError) - {errors.CacheStoreError}
    assert len({error.reason for error in status.CODES}) == len(status.CODES)


@pytest.mark.parametrize("error", list(status.CODES))
def test_an_error_arrives_as_itself(error: type[errors.CacheStoreError]) -> None:
    answer = status.answer(error("what and why"), "Read")
    assert dict(answer.trailers) == {"kv-reason": error.reason, "retryable": "1" if error.retryable else "0"}
    back = status.error_of(Failed(*answer), "Read", "here")
    assert type(back) is error and str(back) == "what and why"


def test_a_bug_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        try:
            raise KeyError("/secret/place")
        except KeyError as error:
            answer = status.answer(error, "Read")
    assert answer.code is grpc.StatusCode.INTERNAL and "secret" not in answer.text
    opaque = answer.text.split()[2].rstrip(";")
    assert opaque in caplog.text and "/secret/place" in caplog.text and "Traceback" in caplog.text


def test_want_of_memory_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = status.answer(MemoryError(), "Read")
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "Read" in caplog.text
    assert answer.trailers == (("kv-reason", "overloaded"), ("retryable", "1"))


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_whatever_grpc_says_becomes_an_error_of_ours(code: grpc.StatusCode) -> None:
    error = status.error_of(Failed(code, "text"), "Read", "host:1")
    assert (isinstance(error, errors.CacheStoreError) and "Read" in str(error)) or "host:1" in str(error)


def test_what_the_client_makes_of_a_server_that_is_not_there() -> None:
    gone = status.error_of(Failed(grpc.StatusCode.UNAVAILABLE, "refused"), "Read", "host:1")
    assert isinstance(gone, errors.Unavailable) and "host:1" in str(gone) and "cachestore serve" in str(gone)
    large = status.error_of(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max"), "Read", "host:1")
    assert isinstance(large, errors.TooLarge)


def test_a_reason_does_not_override_its_code() -> None:
    odd = status.error_of(Failed(grpc.StatusCode.UNAVAILABLE, "x", (("kv-reason", "too_large"),)), "Read", "host:1")
    assert type(odd) is errors.Unavailable


def test_long_texts_are_cut() -> None:
    assert len(status.answer(errors.InvalidArgument("x" * 10_000), "Read").text) == status.LONGEST_TEXT
