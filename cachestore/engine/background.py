"""Work that may wait, on threads of its own; what follows from it is done by the thread that owns the engine."""

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from cachestore.errors import CacheStoreError, InternalError

T = TypeVar("T")
Then = Callable[[], None]

_log = logging.getLogger(__name__)


def clear(error: Exception, doing: str) -> CacheStoreError:
    """The error as whoever asked may see it; one that is not of our tree goes to the log under an id."""
    if isinstance(error, CacheStoreError):
        return error
    opaque = secrets.token_hex(8)
    _log.error("%s failed, id %s", doing, opaque, exc_info=error)
    return InternalError(f"{doing} failed; the log has the rest under {opaque}")


class Background:
    """`threads` threads; `done` takes what is to be done by the owner, and wakes it."""

    def __init__(self, threads: int, name: str, done: Callable[[Then], None]) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._name = name
        self._done = done

    def run(self, work: Callable[[], T], then: Callable[[T | CacheStoreError], None]) -> None:
        """Does `work`, in the order of asking; its result or error goes to `then`."""
        self._threads.submit(self._work, work, then)

    def _work(self, work: Callable[[], T], then: Callable[[T | CacheStoreError], None]) -> None:
        try:
            result: T | CacheStoreError = work()
        except Exception as error:
            result = clear(error, self._name)
        self._done(partial(then, result))

    def close(self) -> None:
        """Waits for what was asked, which is bounded by deadlines of its own."""
        self._threads.shutdown()
