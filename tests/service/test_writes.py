"""Puts that no client of ours would send."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.seal import checksum
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.stream.frames import WRITE
from cachestore.store.tiered import TieredStore
from cachestore.wire import store_pb2 as wire


def encoding(**changes: int) -> wire.Encoding:
    return wire.Encoding(**{"stored_bytes": 256, **changes})


def piece(data: bytes = bytes(256), block: int = 0, **changes: Any) -> wire.WriteRequest:
    segment: dict[str, Any] = {"plane": 0, "encoding": encoding(), "offset": 0, "length": len(data), **changes}
    frame = wire.PlaneFrame(block=block, segments=[wire.PlaneFrame.Segment(**segment)], data=data)
    return wire.WriteRequest(frame=frame)


def run(data: bytes = bytes(256), block: int = 0, plane: int = 0, checksums: int = 1) -> wire.PlaneFrame:
    return wire.PlaneFrame(block=block, run=wire.PlaneFrame.Run(plane=plane, checksums=[0] * checksums), data=data)


def both() -> wire.PlaneFrame:
    frame = run()
    frame.MergeFrom(piece().frame)
    return frame


WRONG_RUNS = {
    "run of unknown block": run(block=9),
    "run behind the planes": run(plane=1),
    "run far behind the planes": run(plane=(1 << 32) - 1),
    "run beyond the planes": run(bytes(512), checksums=2),
    "run of no planes": run(b"", checksums=0),
    "run too short": run(bytes(255)),
    "run too long": run(bytes(257)),
    "run and segments": both(),
}

WRONG_WRITES: dict[str, list[wire.WriteRequest | bytes]] = {
    "garbage": [b"\xff\xff\xff"],
    "reserve again": [wire.WriteRequest(reserve=wire.Reserve())],
    "nothing": [wire.WriteRequest()],
    "unknown block": [piece(block=9)],
    "unknown plane": [piece(plane=99)],
    "too short": [piece(length=257)],
    "too long": [piece(length=255)],
    "huge length": [piece(length=1 << 63)],
    "huge offset": [piece(offset=(1 << 64) - 1)],
    "huge plane": [piece(encoding=encoding(stored_bytes=1 << 60))],
    "empty plane": [piece(encoding=encoding(stored_bytes=0))],
    "empty piece": [piece(b"")],
    "out of order": [piece(bytes(100), offset=100)],
    "repeated": [piece(bytes(100)), piece(bytes(100))],
    "other encoding": [piece(bytes(100)), piece(bytes(156), offset=100, encoding=encoding(codec=1))],
    "written twice": [piece(), piece()],
    "unknown codec": [piece(encoding=encoding(codec=77))],
    "codec beyond a byte": [piece(encoding=encoding(codec=300))],
    "commit of unknown": [wire.WriteRequest(commit=wire.Commit(blocks=[7]))],
    **{name: [wire.WriteRequest(frame=frame)] for name, frame in WRONG_RUNS.items()},
    "run of what was written": [piece(), wire.WriteRequest(frame=run())],
    "commit twice": [wire.WriteRequest(commit=wire.Commit(blocks=[0, 0]))],
}


@pytest.mark.parametrize("name", list(WRONG_WRITES))
def test_a_wrong_write_is_refused_and_leaves_nothing(
    tiered: TieredStore, server: CacheStoreServer, channel: grpc.Channel, remote: RemoteStore, name: str,
    eventually: Callable[[Callable[[], object]], None],
) -> None:  # fmt: skip
    planes = [wire.PlaneId(item_bytes=4, raw_bytes=256)]
    block = wire.Reserve.Block(key=b"k" * 32, token_count=4)
    reserve = wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=[block])
    requests = [wire.WriteRequest(reserve=reserve), *WRONG_WRITES[name]]
    raw = [request if isinstance(request, bytes) else request.SerializeToString() for request in requests]
    with pytest.raises(grpc.RpcError) as failed:
        list(channel.stream_stream(WRITE)(iter(raw), timeout=10))
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    assert dict(error.trailing_metadata())["kv-reason"] == "invalid_argument"
    assert remote.lookup(Chain(bytes(32), (b"k" * 32,))) == (0, (), 0)
    eventually(lambda: server.bytes_in_flight.used == 0 and tiered.memory.usage().used == 0)


def test_a_plane_with_a_wrong_checksum_fails_its_block(channel: grpc.Channel, remote: RemoteStore) -> None:
    planes = [wire.PlaneId(item_bytes=4, raw_bytes=256)]
    block = wire.Reserve.Block(key=b"k" * 32, token_count=4)
    reserve = wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=[block])
    requests = [wire.WriteRequest(reserve=reserve), piece(), wire.WriteRequest(commit=wire.Commit(blocks=[0]))]
    write = channel.stream_stream(WRITE, response_deserializer=wire.WriteResponse.FromString)
    answers = list(write(iter([request.SerializeToString() for request in requests]), timeout=10))
    assert answers[-1].answers[0].status == wire.FAILED
    assert remote.lookup(Chain(bytes(32), (b"k" * 32,))) == (0, (), 0)


@pytest.mark.parametrize(("flipped", "status"), [(0, wire.STORED), (1, wire.FAILED)])
def test_a_run_is_what_its_checksums_say(
    channel: grpc.Channel, remote: RemoteStore, flipped: int, status: "wire.PutStatus"
) -> None:
    planes = [wire.PlaneId(slot=slot, item_bytes=4, raw_bytes=256) for slot in range(3)]
    block = wire.Reserve.Block(key=b"k" * 32, token_count=4)
    reserve = wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=[block])
    data = np.arange(768, dtype=np.uint32).astype(np.uint8)
    sums = [checksum(data[at : at + 256]) for at in (0, 256, 512)]
    sums[2] ^= flipped
    frames = [
        wire.PlaneFrame(run=wire.PlaneFrame.Run(plane=1, checksums=sums[1:]), data=data[256:].tobytes()),
        wire.PlaneFrame(run=wire.PlaneFrame.Run(checksums=sums[:1]), data=data[:256].tobytes()),
    ]
    requests = [
        wire.WriteRequest(reserve=reserve),
        *(wire.WriteRequest(frame=frame) for frame in frames),
        wire.WriteRequest(commit=wire.Commit(blocks=[0])),
    ]
    write = channel.stream_stream(WRITE, response_deserializer=wire.WriteResponse.FromString)
    answers = list(write(iter([request.SerializeToString() for request in requests]), timeout=10))
    assert answers[0].runs and answers[-1].answers[0].status == status
    with remote.read(Chain(bytes(32), (b"k" * 32,))) as reading:
        assert [np.concatenate(list(block.data)).tolist() for block, _ in reading] == [data.tolist()][flipped:]


def stored_with(channel: grpc.Channel, of: wire.Encoding, data: bytes) -> int:
    """The status of a block of one plane of 256 bytes that is written like this."""
    planes = [wire.PlaneId(item_bytes=4, raw_bytes=256)]
    block = wire.Reserve.Block(key=b"k" * 32, token_count=4)
    reserve = wire.Reserve(fingerprint=bytes(32), layouts=[wire.Layout(planes=planes)], blocks=[block])
    commit = wire.WriteRequest(commit=wire.Commit(blocks=[0]))
    requests = [wire.WriteRequest(reserve=reserve), piece(data, encoding=of), commit]
    write = channel.stream_stream(WRITE, response_deserializer=wire.WriteResponse.FromString)
    answers = list(write(iter([request.SerializeToString() for request in requests]), timeout=10))
    status: int = answers[-1].answers[0].status
    return status


def test_a_raw_plane_whose_raw_checksum_is_wrong_fails_its_block(channel: grpc.Channel, remote: RemoteStore) -> None:
    data = bytes(range(256))
    own = checksum(np.frombuffer(data, dtype=np.uint8))
    assert stored_with(channel, encoding(stored_checksum=own, raw_checksum=own ^ 1), data) == wire.FAILED
    assert remote.lookup(Chain(bytes(32), (b"k" * 32,))).ready == 0


def test_a_block_that_no_reader_can_decode_is_dropped_with_its_first_read(
    channel: grpc.Channel, remote: RemoteStore
) -> None:
    garbage = bytes(range(100))
    own = checksum(np.frombuffer(garbage, dtype=np.uint8))
    of = encoding(codec=1, stored_bytes=100, stored_checksum=own)
    assert stored_with(channel, of, garbage) == wire.STORED
    keys = Chain(bytes(32), (b"k" * 32,))
    with remote.read(keys) as reading:
        assert list(reading) == []
    assert remote.lookup(keys).ready == 0
    figures = remote.stats()
    assert total(figures, "corruptions", tier="cpu") == 1 == total(figures, "read_corrupt")
