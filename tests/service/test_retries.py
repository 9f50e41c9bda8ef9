"""A second try: only for what can be asked twice, once, and not for ever."""

import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import pytest

from cachestore.errors import CacheStoreError, Unavailable
from cachestore.hashing import Chain
from cachestore.service.client import RemoteStore
from cachestore.service.retries import IDEMPOTENT, MOST
from cachestore.wire import store_pb2 as wire

CHAIN = Chain(bytes(32), (b"k" * 32,))


class Failing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers UNAVAILABLE to the first `times` calls of each method, and says how often it was asked."""

    def __init__(self) -> None:
        self.times = 0
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method.rpartition("/")[2]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                self.asked.append(name)
                failed = self.asked.count(name) <= self.times
            if failed:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def failing() -> Any:
    handler = Failing()
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    handler.address = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
    yield handler
    server.stop(0).wait()


CALLS: dict[str, Callable[[RemoteStore], object]] = {
    "Lookup": lambda store: store.lookup(CHAIN),
    "Stats": lambda store: store.stats(),
    "ClusterMap": lambda store: store.members(),
    "ListPins": lambda store: store.pins(),
    "Pin": lambda store: store.pin(CHAIN, 1.0),
    "Lease": lambda store: store.lease(CHAIN),
    "Delete": lambda store: store.delete(CHAIN),
    "Clear": lambda store: store.clear(),
    "Abort": lambda store: store.abort(b"p" * 16),
}


@pytest.mark.parametrize("method", CALLS)
def test_only_what_changes_nothing_is_asked_twice(failing: Any, method: str) -> None:
    failing.times = 1
    with RemoteStore(failing.address, transports=("stream",)) as store:
        if method in IDEMPOTENT:
            CALLS[method](store)
            assert failing.asked == [method] * 2
        else:
            with pytest.raises(Unavailable):
                CALLS[method](store)
            assert failing.asked == [method]


def test_there_is_one_second_try_and_no_third(failing: Any) -> None:
    failing.times = 100
    with RemoteStore(failing.address, transports=("stream",)) as store:
        with pytest.raises(Unavailable):
            store.stats()
        assert failing.asked == ["Stats"] * 2


def test_second_tries_are_used_up_and_earned_again(failing: Any) -> None:
    failing.times = 1000
    with RemoteStore(failing.address, transports=("stream",)) as store:
        for _ in range(int(MOST) + 3):
            with pytest.raises(Unavailable):
                store.stats()
        assert len(failing.asked) == 2 * int(MOST) + 3
        failing.times = 0
        for _ in range(11):
            store.stats()
        failing.times, before = 1000, len(failing.asked)
        with pytest.raises(Unavailable):
            store.stats()
        assert len(failing.asked) == before + 2


def test_the_deadline_holds_for_both_tries_together() -> None:
    with RemoteStore("127.0.0.1:1") as store:
        for timeout in (0.05, 0.3):
            begun = time.monotonic()
            with pytest.raises(CacheStoreError):
                store.stats(timeout=timeout)
            assert time.monotonic() - begun < timeout + 1.0


def test_the_requests_of_these_methods_have_no_effect() -> None:
    service = wire.DESCRIPTOR.services_by_name["CacheStore"]
    assert IDEMPOTENT < {method.name for method in service.methods}
