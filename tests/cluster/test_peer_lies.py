"""A node that another one's directory names may answer anything: that is a miss in time, counted, and nothing else."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

import grpc
import pytest

from cachestore.cluster import peer_reading
from cachestore.cluster.peer_tier import TIER
from cachestore.hashing import Chain
from cachestore.seal import Header
from cachestore.service import convert
from cachestore.service.words import VERDICT
from cachestore.store.base import Verdict
from cachestore.testing import random_prompt, small_spec
from cachestore.testing.sealed import sealed_block
from cachestore.wire import store_pb2 as wire
from cachestore.wire.store_pb2_grpc import CacheStoreServicer, add_CacheStoreServicer_to_server
from tests.cluster.linked import NAMESPACE, Nodes, linked

PATIENT = 5.0
"""Seconds for a node that lies and answers at once."""

KEYS, _ = random_prompt(small_spec(), 6)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with linked() as started:
        yield started


@dataclass
class Liar(CacheStoreServicer):
    """A node that answers every Read with `answers`, made for the keys that are asked for."""

    answers: Callable[[Sequence[bytes]], Iterator[wire.ReadResponse]]
    told: list[int] = field(default_factory=list)
    released: Event = field(default_factory=Event)

    def Read(self, request: wire.ReadRequest, context: grpc.ServicerContext) -> Iterator[wire.ReadResponse]:
        keys = convert.chain(request.chain).keys
        runs = [wire.Run(blocks=len(keys), tier="cpu", node="liar")]
        yield wire.ReadResponse(granted=wire.Granted(lease=bytes(16), lease_ms=1000, runs=runs))
        yield from self.answers(keys[keys.index(request.resume.key) if request.HasField("resume") else 0 :])

    def Release(self, request: wire.ReleaseRequest, context: grpc.ServicerContext) -> wire.ReleaseResponse:
        self.told += request.verdicts
        self.released.set()
        return wire.ReleaseResponse()


@contextlib.contextmanager
def lying(liar: Liar) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_CacheStoreServicer_to_server(liar, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def start(header: bytes) -> wire.ReadResponse:
    return wire.ReadResponse(start=wire.BlockStart(block=0, header=header, tier="cpu"))


def data(offset: int, nbytes: int) -> wire.ReadResponse:
    return wire.ReadResponse(data=wire.BlockData(block=0, offset=offset, data=b"x" * nbytes))


END = wire.ReadResponse(end=wire.BlockEnd(block=0, status=wire.SENT))
SPEC = b"f" * 32


def header(key: bytes, nbytes: int = 1000) -> bytes:
    return Header.parse(sealed_block(NAMESPACE, key, nbytes)).packed


def payload(key: bytes) -> bytes:
    sealed = sealed_block(NAMESPACE, key)
    return sealed[Header.parse(sealed).size :].tobytes()


LIES: dict[str, tuple[Callable[[bytes], list[wire.ReadResponse]], str]] = {
    "no header": (lambda key: [start(b"x" * 500), END], "foreign"),
    "another key": (lambda key: [start(header(bytes(32))), END], "identity"),
    "nothing of its bytes": (lambda key: [start(header(key)), END], "truncated"),
    "other bytes": (lambda key: [start(header(key)), data(0, len(payload(key))), END], "checksum"),
    "bytes behind its end": (lambda key: [start(header(key)), data(1 << 40, 1), END], "foreign"),
    "more than is taken": (lambda key: [start(header(key, 1 << 20)), END], "size"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_the_block_asked_for_is_a_corruption_that_the_other_hears_of(
    nodes: Nodes, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a machine that is busy must not look like a node that hangs
    monkeypatch.setattr(peer_reading, "RELEASE_SECONDS", PATIENT)
    answers, reason = LIES[lie]
    keys = Chain(SPEC, KEYS.keys[:2])
    liar = Liar(lambda asked: iter(answers(asked[0])))
    b = nodes.start("b", largest=64 << 10, timeout=PATIENT)
    with lying(liar) as address:
        nodes.says("liar", address, *keys.keys)
        assert b.read(keys) == []
        assert b.counted("corruptions", tier=TIER, reason=reason) == 1
        assert liar.released.wait(PATIENT) and VERDICT.number(Verdict.CORRUPT) in liar.told


@pytest.mark.parametrize("said", [b"", b"\xff" * 12, b"\0" * 12 + b"\xff" * 4000])
def test_a_bulk_port_that_answers_anything_is_left_alone(nodes: Nodes, said: bytes) -> None:
    keys = Chain(SPEC, KEYS.keys[:2])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        offer = wire.BulkOffer(address=f"127.0.0.1:{listening.getsockname()[1]}", ticket=bytes(32))

        class Offering(Liar):
            def Read(self, request: wire.ReadRequest, context: grpc.ServicerContext) -> Iterator[wire.ReadResponse]:
                granted = next(iter(super().Read(request, context)))
                if request.bulk:
                    granted.granted.bulk.CopyFrom(offer)
                yield granted

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(40)
                        connection.sendall(said)

        Thread(target=answer, daemon=True).start()
        b = nodes.start("b")
        with lying(Offering(lambda asked: iter(()))) as address:
            nodes.says("liar", address, *keys.keys)
            began = time.monotonic()
            assert b.read(keys, timeout=5.0) == []
            assert time.monotonic() - began < 5.0 + 1.0
        listening.shutdown(socket.SHUT_RDWR)


def test_a_node_that_stops_in_the_middle_costs_its_time_once(nodes: Nodes) -> None:
    keys = Chain(SPEC, KEYS.keys[:2])
    over = Event()

    def one(asked: Sequence[bytes]) -> Iterator[wire.ReadResponse]:
        if asked[0] == keys.keys[0]:
            yield start(header(asked[0]))
            yield wire.ReadResponse(data=wire.BlockData(block=0, offset=0, data=payload(asked[0])))
            yield END
        over.wait(10.0)

    b = nodes.start("b", timeout=0.3)
    with lying(Liar(one)) as address:
        nodes.says("liar", address, *keys.keys)
        began = time.monotonic()
        assert len(b.read(keys, timeout=8.0)) == 1
        assert time.monotonic() - began < 3 * 0.3 + 1.0
        over.set()
    assert b.counted("peer_failures") == 1


def test_a_tenant_whose_share_of_a_node_is_used_up_leaves_the_node_to_others(nodes: Nodes) -> None:
    keys = Chain(SPEC, KEYS.keys[:2])

    class Full(Liar):
        def Read(self, request: wire.ReadRequest, context: grpc.ServicerContext) -> Any:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")

    b = nodes.start("b")
    with lying(Full(lambda asked: iter(()))) as address:
        nodes.says("full", address, *keys.keys)
        assert b.read(keys) == [] and b.counted("peer_failures") == 1
        assert b.store.lookup(keys).ready == 2
