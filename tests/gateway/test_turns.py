"""Choices of one request that the workers do not take all at once; and how long a request may take in all."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import grpc
import httpx
import pytest

from cachestore.block import BlockSpec
from cachestore.codecs import create
from cachestore.engine.model import model_spec
from cachestore.engine.settings import EngineSettings
from cachestore.eviction.lru import Lru
from cachestore.hashing import fingerprint
from cachestore.metrics import Figure
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from cachestore.wire import worker_pb2 as wire
from gateway.app import create_app
from gateway.gateway import Gateway
from gateway.served import Served
from gateway.settings import GatewaySettings
from tests.gateway.conftest import END
from tests.gateway.scripted import TALE, WORDS, Scripted, serving

CHOICES = 12


@dataclass(eq=False)
class Narrow(Scripted):
    """Takes so many requests at once, and refuses more; behind each, others take its place for `taken` seconds."""

    room: int = 1
    taken: float = 0.0
    refused: int = 0
    _under_way: int = 0
    _free: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def Generate(self, request: wire.GenerateRequest, context: grpc.ServicerContext) -> Iterator[wire.GenerateResponse]:
        with self._lock:
            full = self._under_way >= self.room or time.monotonic() < self._free
            self._under_way += not full
            self.refused += full
        if full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        try:
            # the others come in the meantime
            time.sleep(0.05)
            yield from super().Generate(request, context)
        finally:
            with self._lock:
                self._under_way -= 1
                self._free = time.monotonic() + self.taken


Talk = Callable[[Gateway], Coroutine[Any, Any, Any]]
Answer = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def spec(byte_model: object) -> BlockSpec:
    return model_spec(EngineSettings(str(byte_model), block_tokens=16))


@pytest.fixture
def before(spec: BlockSpec) -> Iterator[Callable[[Scripted, Talk, float], Any]]:
    """Has one talk to a gateway before one worker."""
    served = Served("tiny", WORDS, spec, 1024, 257, frozenset({END}))

    with TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as kept:
        with CacheStoreServer(kept, ServiceSettings(port=0)) as server, RemoteStore(server.address) as remote:

            def talked(worker: Scripted, talk: Talk, timeout: float) -> Any:
                with serving(worker) as address:
                    member = Member("decode", "d", address, "here", bytes(16), fingerprint=fingerprint(spec))
                    remote.register(member, 60)
                    try:
                        gateway = Gateway(GatewaySettings(request_timeout=timeout), served, [server.address])
                        return asyncio.run(talk(gateway))
                    finally:
                        remote.register(replace(member), 0)

            yield talked


@pytest.fixture
def asked(before: Callable[[Scripted, Talk, float], Any]) -> Answer:
    """The gateway's answer, to which the body may come slowly."""

    def ask(worker: Scripted, content: bytes | AsyncIterator[bytes], timeout: float = 20.0) -> Any:
        async def talk(gateway: Gateway) -> httpx.Response:
            app = create_app(gateway)
            transport = httpx.ASGITransport(app)
            async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
                return await client.post("http://gateway/v1/completions", content=content)

        return before(worker, talk, timeout)

    return ask


def body(choices: int, **more: object) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "x" * 40, "max_tokens": 8, "n": choices, **more}).encode()


@pytest.mark.parametrize("room", [1, 3])
def test_choices_that_find_no_room_wait_for_their_turn(asked: Answer, room: int) -> None:
    worker = Narrow(room=room)
    answer = asked(worker, body(CHOICES))
    assert answer.status_code == 200, answer.text
    assert [choice["text"] for choice in answer.json()["choices"]] == [TALE[:8]] * CHOICES
    assert worker.refused and len(worker.asked) == CHOICES


def test_where_there_is_no_room_at_all_nobody_waits(asked: Answer) -> None:
    answer = asked(Narrow(room=0), body(CHOICES))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")


def test_a_place_that_others_take_meanwhile_costs_no_choice(asked: Answer) -> None:
    worker = Narrow(taken=0.3)
    answer = asked(worker, body(2))
    assert answer.status_code == 200, answer.text
    assert [choice["text"] for choice in answer.json()["choices"]] == [TALE[:8]] * 2


def test_nobody_waits_for_such_a_place_beyond_the_deadline(asked: Answer) -> None:
    begun = time.monotonic()
    answer = asked(Narrow(taken=60.0), body(2), 0.5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert time.monotonic() - begun < 5


def test_the_time_of_a_request_begins_when_it_comes(asked: Answer) -> None:
    """Not when it has been read: this one never is."""

    async def never() -> AsyncIterator[bytes]:
        yield body(1)[:5]
        await asyncio.Event().wait()

    begun = time.monotonic()
    answer = asked(Scripted(), never(), 0.3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")
    assert "body" in answer.json()["error"]["message"] and time.monotonic() - begun < 5


def posted(spec_version: str) -> dict[str, Any]:
    """What a server of this version of ASGI says of a request."""
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1",
        "method": "POST", "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"",
        "headers": [], "scheme": "http", "root_path": "", "server": ("gateway", 80), "client": ("here", 1),
    }  # fmt: skip


def test_where_the_way_to_the_client_breaks_it_has_left(before: Callable[[Scripted, Talk, float], Any]) -> None:
    """A server that can say no more whether the client is there."""

    async def broken(gateway: Gateway) -> list[Figure]:
        bodies = [{"type": "http.request", "body": body(1)}]

        async def receive() -> Any:
            if not bodies:
                raise OSError("the proxy died")
            return bodies.pop()

        async def send(message: Any) -> None:
            pass

        app = create_app(gateway)
        async with app.router.lifespan_context(app):
            async with asyncio.timeout(5):
                await app(posted("2.4"), receive, send)
            return gateway.figures()

    counted = {(each.name, *each.labels): each.value for each in before(Scripted([(3, "silent")]), broken, 20.0)}
    assert counted[("requests_left",)] == counted[("requests",)] == 1 and counted[("requests_under_way",)] == 0


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_stream_that_nobody_reads_ends_with_its_time(
    before: Callable[[Scripted, Talk, float], Any], spec_version: str
) -> None:
    """Also where the server says nothing of a client that is there and does not read."""
    sent: list[str] = []

    async def unread(gateway: Gateway) -> tuple[list[Figure], int]:
        bodies = [{"type": "http.request", "body": body(2, stream=True)}]

        async def receive() -> Any:
            return bodies.pop() if bodies else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        app = create_app(gateway)
        async with app.router.lifespan_context(app):
            async with asyncio.timeout(5):
                await app(posted(spec_version), receive, send)
            return gateway.figures(), sum(worker.under_way for worker in gateway.workers.all())

    begun = time.monotonic()
    figures, under_way = before(Scripted(), unread, 0.3)
    assert time.monotonic() - begun < 5 and sent == ["http.response.start", "http.response.body"]
    counted = {(each.name, *each.labels): each.value for each in figures}
    assert counted[("requests_failed", ("status", "504"))] == counted[("requests",)] == 1
    assert counted[("requests_under_way",)] == under_way == 0 and ("requests_left",) not in counted
