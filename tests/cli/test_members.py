"""How the nodes of a cluster are asked, where nobody answers as it should."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest


class Refusing(grpc.GenericRpcHandler):
    """Refuses every call, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append(details.method.rpartition("/")[2])
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def refusing() -> Iterator[tuple[Refusing, str]]:
    handler = Refusing()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_who_does_not_answer_is_asked_once(command: Callable[..., Any], refusing: tuple[Refusing, str]) -> None:
    """Twice would take twice the time that the user gave."""
    handler, address = refusing
    assert "not now" in command("nodes", "--address", address).refused(1)
    assert handler.asked.count("Node") == 1
