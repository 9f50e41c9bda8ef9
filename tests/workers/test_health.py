"""A worker whose loop hangs says so, and says so no more when it goes on."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cachestore.deadline import Deadline
from cachestore.engine.sampling import Sampling
from decode_worker.request import Request
from decode_worker.server import DecodeServer
from prefill_worker import base
from prefill_worker.call import Call
from prefill_worker.prompt import Prompt


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_loop_that_hangs_is_told_of(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "HANGS", 0.2)
    tables = {"engine": {"model": str(tiny_model), "block_tokens": 16}, "batch": {"pages": 20}}
    with (
        DecodeServer(tables, store="127.0.0.1:9", name="n") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub, goes_on, forward = health_pb2_grpc.HealthStub(channel), Event(), server.model.forward

        def serving() -> bool:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=server.service), timeout=5)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        def held(*arguments: Any) -> Any:
            goes_on.wait(20)
            return forward(*arguments)

        assert serving()
        monkeypatch.setattr(server.model, "forward", held)
        request = Request(Prompt([5, 6, 7], Sampling()), 2)
        asked = Thread(target=lambda: list(server.worker.generate(request, Call(Deadline.after(20)))))
        asked.start()
        eventually(lambda: not serving())
        goes_on.set()
        asked.join()
        eventually(serving)
