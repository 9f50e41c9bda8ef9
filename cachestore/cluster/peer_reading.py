"""Sealed blocks as another node sends them: what a client would decode, a node keeps as it is."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import grpc
import numpy as np

from cachestore.block import WHOLE, Buffer
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.seal import DURABLE, CorruptBlock, Header
from cachestore.service import convert
from cachestore.service.connection import Connection
from cachestore.service.stream.frames import BlockFrame
from cachestore.service.stream.source import begin
from cachestore.service.words import VERDICT
from cachestore.store.base import Verdict
from cachestore.store.inspection import intact
from cachestore.tiers.base import Found
from cachestore.wire import store_pb2 as wire

RELEASE_SECONDS = 0.5
"""How long the end of a lease may take: without it the lease runs out by itself."""


class Brought(NamedTuple):
    """Blocks that came, in order, the last perhaps a CorruptBlock; and how many there were at the node."""

    blocks: list[Found]
    there: int


def read_sealed(connection: Connection, namespace: bytes, chain: Chain, deadline: Deadline, largest: int) -> Brought:
    """The leading blocks of `chain` that the node has, each of `largest` bytes at most; all bytes are verified.

    What a node holds elsewhere is a copy to who reads it: it promises nothing, and is not durable here. Raises from
    `cachestore.errors` if the node cannot be asked, or breaks off.
    """
    request = wire.ReadRequest(chain=convert.chain_message(chain), part=convert.part_message(WHOLE))
    call, granted = begin(connection, request, deadline)
    found: list[Found] = []
    try:
        with connection.errors("Read"):
            for key in chain.keys:
                block = _block(call, namespace, key, chain.fingerprint, largest)
                if block is None:
                    break
                found.append(block)
    except CorruptBlock as corrupt:
        found.append(corrupt)
    finally:
        call.cancel()
        _release(connection, granted.lease, found)
    return Brought(found, sum(run.blocks for run in granted.runs))


def _block(call: Any, namespace: bytes, key: bytes, fingerprint: bytes, largest: int) -> Buffer | None:
    message = next(call, None)
    if not isinstance(message, wire.ReadResponse) or not message.HasField("start"):
        return None
    header = Header.parse(message.start.header)
    header.check_identity(namespace, key, fingerprint)
    if header.size + header.payload_bytes > largest:
        raise CorruptBlock("size")
    # what lies between planes is not sent, and is zero
    sealed: Buffer = np.zeros(header.size + header.payload_bytes, dtype=np.uint8)
    payload = sealed[header.size :]
    while isinstance(message := next(call, None), BlockFrame):
        at, data = message.head.offset, message.data
        if at + data.nbytes > payload.nbytes:
            raise CorruptBlock("foreign")
        np.copyto(payload[at : at + data.nbytes], data)
    if not isinstance(message, wire.ReadResponse) or not message.HasField("end") or message.end.status != wire.SENT:
        return None
    packed = replace(header, flags=header.flags & ~DURABLE).pack()
    sealed[: header.size] = np.frombuffer(packed, dtype=np.uint8)
    if not intact(header, payload):
        raise CorruptBlock("checksum")
    return sealed


def _release(connection: Connection, lease: bytes, found: list[Found]) -> None:
    verdicts = [Verdict.CORRUPT if isinstance(block, CorruptBlock) else Verdict.USED for block in found]
    request = wire.ReleaseRequest(lease=lease, verdicts=[VERDICT.number(verdict) for verdict in verdicts])
    with suppress(CacheStoreError, grpc.RpcError):
        connection.call("Release", request, RELEASE_SECONDS)
