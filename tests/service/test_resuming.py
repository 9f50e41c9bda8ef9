"""Reads whose connection breaks inside a block: they go on where they were, or anew where the block is another."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.hashing import Chain
from cachestore.seal import digest
from cachestore.service import convert
from cachestore.service.client import RemoteStore
from cachestore.service.options import SERVER
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.stream.frames import READ, BlockFrame, Unjoined, read_response
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, same
from cachestore.wire import store_pb2 as wire
from tests.faults.injections import DOWN, Bandwidth, ResetAt
from tests.faults.proxy import Proxy

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""

BLOCK = 2 << 20


def request_of(keys: Chain, **more: Any) -> wire.ReadRequest:
    return wire.ReadRequest(chain=convert.chain_message(keys), **more)


def answers(channel: grpc.Channel, request: wire.ReadRequest) -> list[bytes]:
    """The messages of a read as they come over the wire."""
    return list(channel.unary_stream(READ)(request.SerializeToString(), timeout=10))


def headers(messages: list[bytes]) -> list[bytes]:
    parsed = map(read_response, messages)
    return [one.start.header for one in parsed if isinstance(one, wire.ReadResponse) and one.HasField("start")]


def frames(messages: list[bytes]) -> list[BlockFrame]:
    return [one for one in map(read_response, messages) if isinstance(one, BlockFrame)]


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("at", [100_000, BLOCK - 300_000, BLOCK + 1_500_000])
def test_what_came_does_not_come_again(server: CacheStoreServer, at: int, into: bool) -> None:
    keys, blocks = random_prompt(LARGE, 3)
    with (
        Proxy(server.address) as proxy,
        RemoteStore(server.address) as direct,
        RemoteStore(proxy.address, transports=("stream",)) as store,
    ):
        put_blocks(direct, keys.fingerprint, blocks)
        targets = [np.empty(BLOCK, dtype=np.uint8) for _ in keys.keys] if into else None
        # slow enough that the reader has taken what came before the reset: gRPC drops the rest
        with (
            proxy.inject(Bandwidth(DOWN, 20 << 20)),
            proxy.inject(ResetAt(DOWN, at)) as reset,
            store.read(keys, into=targets) as reading,
        ):
            loaded = [block for block, _ in reading]
        assert len(loaded) == 3 and all(map(same, loaded, blocks))
        # at most what was on its way in one frame came twice
        assert reset.passed < 3 * BLOCK + ServiceSettings.frame_bytes + (256 << 10)


@pytest.mark.parametrize("offset", [1, BLOCK // 2, BLOCK - 1, BLOCK, 1 << 60])
def test_a_read_begins_at_its_offset(channel: grpc.Channel, remote: RemoteStore, offset: int) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    put_blocks(remote, keys.fingerprint, blocks)
    whole = answers(channel, request_of(keys))
    first, _ = headers(whole)
    payload = b"".join(frame.data.tobytes() for frame in frames(whole) if frame.head.block == 0)
    resume = wire.Resume(key=keys.keys[0], digest=digest(first), offset=offset)
    rest = answers(channel, request_of(keys, resume=resume))
    assert headers(rest) == headers(whole)
    of_first = [frame for frame in frames(rest) if frame.head.block == 0]
    assert b"".join(frame.data.tobytes() for frame in of_first) == payload[offset:]
    assert not of_first or of_first[0].head.offset == offset
    assert frames(rest)[-1].data.tobytes() == frames(whole)[-1].data.tobytes()


@pytest.mark.parametrize("offset", [0, BLOCK // 2, BLOCK])
def test_starts_and_ends_come_along_for_who_asked(channel: grpc.Channel, remote: RemoteStore, offset: int) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    put_blocks(remote, keys.fingerprint, blocks)
    alone = answers(channel, request_of(keys))
    resume = wire.Resume(key=keys.keys[0], digest=digest(headers(alone)[0]), offset=offset)
    alone, joined = (
        [read_response(raw) for raw in answers(channel, request_of(keys, resume=resume, joined=wanted))]
        for wanted in (False, True)
    )
    together = [frame for frame in joined if isinstance(frame, BlockFrame)]
    # what has no bytes left has nothing to come along with
    assert len(alone) == len(together) + 5 and len(joined) == len(together) + 1 + 2 * (offset == BLOCK)
    assert together[-1].head.last and not any(frame.head.last for frame in together if frame.head.offset == 0)
    apart = list(Unjoined(iter(joined)))
    assert [type(one) for one in apart] == [type(one) for one in alone]
    for one, other in zip(apart[1:], alone[1:], strict=True):
        if isinstance(one, BlockFrame):
            assert (one.head.block, one.head.offset) == (other.head.block, other.head.offset)
            assert np.array_equal(one.data, other.data)
        else:
            assert one == other


def test_a_header_too_long_for_a_frame_comes_alone(channel: grpc.Channel, remote: RemoteStore) -> None:
    keys, blocks = random_prompt(BlockSpec("test/many", "0" * 40, "float32", (Slot(1, 1, 1),) * 1000, 1, 4), 1)
    put_blocks(remote, keys.fingerprint, blocks)
    messages = [read_response(raw) for raw in answers(channel, request_of(keys, joined=True))]
    assert [isinstance(one, BlockFrame) for one in messages] == [False, False, True, False]
    with RemoteStore(remote._connection.address, transports=("stream",)) as store, store.read(keys) as reading:
        assert all(map(same, [block for block, _ in reading], blocks))


def test_another_block_is_not_gone_on_with(channel: grpc.Channel, remote: RemoteStore) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    put_blocks(remote, keys.fingerprint, blocks)
    before = headers(answers(channel, request_of(keys)))[0]
    remote.delete(keys)
    put_blocks(remote, keys.fingerprint, blocks)
    resume = wire.Resume(key=keys.keys[0], digest=digest(before), offset=7)
    with pytest.raises(grpc.RpcError) as failed:
        answers(channel, request_of(keys, resume=resume))
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.ABORTED and "resume.digest" in error.details()


@contextmanager
def script(*calls: Callable[[wire.ReadRequest, grpc.ServicerContext], Iterator[bytes]]) -> Iterator[str]:
    """The address of a server whose reads end like these, one after the other; what it cannot do on demand."""
    left = list(calls)
    handlers = {
        "Read": grpc.unary_stream_rpc_method_handler(
            lambda request, context: left.pop(0)(request, context), wire.ReadRequest.FromString
        ),
        "Release": grpc.unary_unary_rpc_method_handler(lambda request, context: b""),
    }
    server = grpc.server(ThreadPoolExecutor(2), options=SERVER)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cachestore.v1.CacheStore", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
        assert not left


@pytest.mark.parametrize("told", [True, False])
def test_a_changed_block_comes_whole(channel: grpc.Channel, remote: RemoteStore, told: bool) -> None:
    keys, old = random_prompt(LARGE, 1, seed=1)
    _, new = random_prompt(LARGE, 1, seed=2)
    put_blocks(remote, keys.fingerprint, old)
    before = answers(channel, request_of(keys))
    remote.delete(keys)
    put_blocks(remote, keys.fingerprint, [replace(new[0], key=keys.keys[0])])
    after = answers(channel, request_of(keys))

    def breaks(_: wire.ReadRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from before[:3]
        context.abort(grpc.StatusCode.UNAVAILABLE, "broken")

    def goes_on(request: wire.ReadRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        assert request.resume.digest == digest(headers(before)[0])
        assert request.resume.offset == frames(before)[0].data.nbytes
        if told:
            yield after[0]
            context.abort(grpc.StatusCode.ABORTED, "resume.digest")
        yield from after

    def anew(request: wire.ReadRequest, context: grpc.ServicerContext) -> Iterator[bytes]:
        assert not request.resume.digest and not request.resume.offset
        yield from after

    with script(breaks, goes_on, anew) as address, RemoteStore(address, transports=("stream",)) as store:
        with store.read(keys) as reading:
            (loaded,) = [block for block, _ in reading]
    assert same(loaded, replace(new[0], key=keys.keys[0]))
