"""A client of the previous version and a store of this one: every method that it calls, and a session in memory."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from cachestore.block import Block
from cachestore.seal import Header, checksum
from cachestore.service.client import RemoteStore
from cachestore.service.shared.messages import receive_with_descriptors, send
from cachestore.store.base import put_blocks
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks
from tests.service.frozen_wire.frozen import METHODS, OldClient, message, number

KEYS, BLOCKS = random_prompt(small_spec(), 3)
SOON = 10.0


@pytest.fixture
def old(channel: grpc.Channel) -> OldClient:
    return OldClient(channel)


def chain(count: int = 3) -> Any:
    return message("Chain")(fingerprint=KEYS.fingerprint, keys=b"".join(KEYS.keys[:count]))


def reserve() -> Any:
    planes = [
        dict(zip(("slot", "half", "group", "item_bytes", "raw_bytes"), plane, strict=True))
        for plane in BLOCKS[0].planes
    ]
    layout = message("Layout")(planes=planes)
    blocks = [message("Reserve").Block(key=block.key, token_count=block.token_count) for block in BLOCKS]
    return message("Reserve")(fingerprint=KEYS.fingerprint, layouts=[layout], blocks=blocks)


def frame(number: int, block: Block) -> Any:
    segments = []
    for plane, data in enumerate(block.data):
        sums = checksum(data)
        encoding = message("Encoding")(stored_bytes=data.nbytes, stored_checksum=sums, raw_checksum=sums)
        segments.append(message("PlaneFrame").Segment(plane=plane, encoding=encoding, length=data.nbytes))
    return message("PlaneFrame")(block=number, segments=segments, data=np.concatenate(block.data).tobytes())


def stored_of(header: bytes, payload: bytes) -> list[bytes]:
    """The planes of a block as they are stored, in table order."""
    return [payload[row.offset : row.offset + row.stored_bytes] for row in Header.parse(header).stored(range(8))]


def test_it_writes_and_reads(old: OldClient) -> None:
    ask = message("WriteRequest")
    frames = [ask(frame=frame(at, block)) for at, block in enumerate(BLOCKS)]
    answers = old.call(
        "Write", ask(reserve=reserve()), *frames, ask(commit=message("Commit")(blocks=range(3), lease_ms=5000))
    )
    wanted, stored = number("PutStatus", "WANTED"), number("PutStatus", "STORED")
    assert [[one.status for one in answer.answers] for answer in answers] == [[wanted] * 3, [stored] * 3]
    assert answers[-1].lease.blocks == 3
    old.call("Release", message("ReleaseRequest")(lease=answers[-1].lease.lease))
    assert old.call("Lookup", message("LookupRequest")(chain=chain())).ready == 3

    payloads: dict[int, bytes] = {}
    headers: dict[int, bytes] = {}
    told = old.call("Read", message("ReadRequest")(chain=chain(), lease_ms=5000))
    for one in told:
        match one.WhichOneof("message"):
            case "start":
                headers[one.start.block] = one.start.header
            case "data":
                assert one.data.offset == len(payloads.get(one.data.block, b""))
                payloads[one.data.block] = payloads.get(one.data.block, b"") + one.data.data
            case "end":
                assert one.end.status == number("ReadStatus", "SENT")
    assert told[0].WhichOneof("message") == "granted" and sorted(headers) == [0, 1, 2]
    for at, block in enumerate(BLOCKS):
        assert stored_of(headers[at], payloads[at]) == [data.tobytes() for data in block.data]
    verdicts = [number("Verdict", "USED")] * 3
    old.call("Release", message("ReleaseRequest")(lease=told[0].granted.lease, verdicts=verdicts))
    figures = {one.name: one.value for one in old.call("Stats", message("StatsRequest")()).figures}
    assert figures["put_stored"] == figures["read_hits"] == 3


def test_it_waits_for_what_is_being_written(old: OldClient, remote: RemoteStore) -> None:
    with remote.put(KEYS.fingerprint, plans_of(BLOCKS)) as put, ThreadPoolExecutor(1) as threads:
        request = message("ReadRequest")(chain=chain(), lease_ms=1000, wait_ms=9000, provisional=True)
        waiting = threads.submit(old.call, "Read", request)
        write_blocks(put, BLOCKS)
        put.commit()
        told = [one.WhichOneof("message") for one in waiting.result()]
    assert told.count("start") == told.count("end") == 3 and "granted" in told


@pytest.fixture
def stored(remote: RemoteStore) -> None:
    put_blocks(remote, KEYS.fingerprint, BLOCKS)


@pytest.mark.usefixtures("stored")
def test_it_leases_pins_and_removes(old: OldClient) -> None:
    lease = old.call("Lease", message("LeaseRequest")(chain=chain(), lease_ms=5000))
    assert lease.blocks == 3
    assert old.call("Lease", message("LeaseRequest")(renew=lease.lease, lease_ms=6000)).lease == lease.lease
    old.call("Release", message("ReleaseRequest")(lease=lease.lease))
    assert old.call("Pin", message("PinRequest")(chain=chain(), ttl_ms=60_000)).blocks == 3
    assert len(old.call("ListPins", message("ListPinsRequest")()).pins) == 3
    assert old.call("Unpin", message("UnpinRequest")(chain=chain())).blocks == 3
    assert old.call("Delete", message("DeleteRequest")(chain=chain(1))).blocks == 1
    assert old.call("Clear", message("ClearRequest")()).blocks == 2
    assert old.call("Abort", message("AbortRequest")(put=bytes(16))).blocks == 0


@pytest.mark.usefixtures("stored")
def test_it_watches(channel: grpc.Channel) -> None:
    kind = message("WatchResponse")
    call = channel.unary_stream("/cachestore.v1.CacheStore/Watch", lambda one: one.SerializeToString(), kind.FromString)
    told = call(message("WatchRequest")(), timeout=SOON)
    first = next(told)
    told.cancel()
    assert first.event == kind.SNAPSHOT and "cpu" in first.tiers


def test_it_is_in_the_map(old: OldClient) -> None:
    member = message("Member")(role="decode", name="d", address="127.0.0.1:1", incarnation=bytes(16))
    old.call("Register", message("RegisterRequest")(member=member, ttl_ms=5000))
    found = old.call("ClusterMap", message("ClusterMapRequest")(role="decode")).members
    assert [one.name for one in found] == ["d"]


@pytest.fixture
def session(old: OldClient) -> Iterator[socket.socket]:
    answer = old.call("Attach", message("AttachRequest")(writer=False))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(answer.socket)
        send(connection, message("SessionRequest")(hello=message("Hello")(ticket=answer.ticket)).SerializeToString())
        assert told(connection).HasField("welcome")
        yield connection


def told(connection: socket.socket) -> Any:
    raw, descriptors = receive_with_descriptors(connection, SOON)
    for one in descriptors:
        os.close(one)
    assert raw is not None
    return message("SessionAnswer").FromString(raw)


@pytest.mark.usefixtures("stored")
def test_it_reads_in_the_stores_memory(session: socket.socket) -> None:
    ask = message("SessionRequest")
    send(session, ask(lookup=message("LookupRequest")(chain=chain())).SerializeToString())
    assert told(session).lookup.ready == 3
    send(session, ask(read=message("ReadRequest")(chain=chain(), lease_ms=5000)).SerializeToString())
    answer = told(session)
    assert len(answer.places.offsets) == 3 and answer.granted.lease
    send(session, ask(release=message("ReleaseRequest")(lease=answer.granted.lease)).SerializeToString())
    assert told(session).HasField("release")


def test_every_method_of_that_time_is_called_here() -> None:
    text = Path(__file__).read_text()
    assert not [name for name in METHODS if f'"{name}"' not in text and f"/{name}" not in text]
