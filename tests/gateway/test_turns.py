"""Choices of one request that the workers do not take all at once; and how long a request may take in all."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from threading import Lock

import grpc
import httpx
import pytest

from cachestore.block import BlockSpec
from cachestore.codecs import create
from cachestore.engine.model import model_spec
from cachestore.engine.settings import EngineSettings
from cachestore.eviction.lru import Lru
from cachestore.hashing import fingerprint
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
    """Takes so many requests at once, and refuses more."""

    room: int = 1
    refused: int = 0
    _under_way: int = 0
    _lock: Lock = field(default_factory=Lock)

    def Generate(self, request: wire.GenerateRequest, context: grpc.ServicerContext) -> Iterator[wire.GenerateResponse]:
        with self._lock:
            full = self._under_way >= self.room
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


Answer = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def spec(byte_model: object) -> BlockSpec:
    return model_spec(EngineSettings(str(byte_model), block_tokens=16))


@pytest.fixture
def asked(spec: BlockSpec) -> Iterator[Answer]:
    """The answer of a gateway before one worker, to which the body may come slowly."""
    served = Served("tiny", WORDS, spec, 1024, 257, frozenset({END}))

    async def posted(gateway: Gateway, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
        app = create_app(gateway)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
            return await client.post("http://gateway/v1/completions", content=content)

    with TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as kept:
        with CacheStoreServer(kept, ServiceSettings(port=0)) as server, RemoteStore(server.address) as remote:

            def ask(worker: Scripted, content: bytes | AsyncIterator[bytes], timeout: float = 20.0) -> httpx.Response:
                with serving(worker) as address:
                    member = Member("decode", "d", address, "here", bytes(16), fingerprint=fingerprint(spec))
                    remote.register(member, 60)
                    try:
                        gateway = Gateway(GatewaySettings(request_timeout=timeout), served, [server.address])
                        return asyncio.run(posted(gateway, content))
                    finally:
                        remote.register(replace(member), 0)

            yield ask


def body(choices: int) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "x" * 40, "max_tokens": 8, "n": choices}).encode()


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


def test_the_time_of_a_request_begins_when_it_comes(asked: Answer) -> None:
    """Not when it has been read: this one never is."""

    async def never() -> AsyncIterator[bytes]:
        yield body(1)[:5]
        await asyncio.Event().wait()

    begun = time.monotonic()
    answer = asked(Scripted(), never(), 0.3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert time.monotonic() - begun < 5
