"""The client's side of a read.

The network may break while blocks arrive: then the blocks not yet here are asked for again under the same lease,
and if that fails too the read ends early, as with any other miss. Only what keeps it from starting is raised.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import grpc
import numpy as np

from cachestore.block import Buffer, Part
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, Mismatch, Unavailable
from cachestore.hashing import Chain
from cachestore.seal import ENCRYPTED, CorruptBlock, Header
from cachestore.service import convert
from cachestore.service.connection import Connection
from cachestore.service.frames import BlockFrame
from cachestore.service.ranges import ranges
from cachestore.service.words import PURPOSE, VERDICT
from cachestore.store.base import Lease, Loaded, Purpose, Verdict
from cachestore.store.reading import decoded
from cachestore.wire import store_pb2 as wire

RESUMES = 4
"""How often a read whose connection breaks is taken up again."""

RESUME_PAUSE = 0.15
"""Seconds between two tries, a little more than the first pause before a channel connects again."""

RELEASE_SECONDS = 1.0
"""How long the end of a reading may wait for its Release, if the deadline is that far away."""

GRACE_SECONDS = 0.2
"""What a Release gets when the deadline has passed already."""


class _Sealed(NamedTuple):
    header: Header
    payload: Buffer
    tier: str


class RemoteReading:
    """The verified blocks of one read over gRPC; follows `cachestore.store.base.Reading`."""

    def __init__(
        self, connection: Connection, chain: Chain, part: Part, into: Sequence[Buffer] | None, deadline: Deadline
    ) -> None:
        self._connection = connection
        self._chain = chain
        self._part = part
        self._into = into
        self._deadline = deadline
        self._lease = b""
        self._call: Any = None
        self._resumes_left = RESUMES
        self._verdicts: dict[int, Verdict] = {}

    def open(self, lease: Lease | None, wait: float, purpose: Purpose) -> None:
        """Asks for the blocks and waits for the lease on them; raises if the store cannot be asked."""
        self._start(
            wire.ReadRequest(
                chain=convert.chain_message(self._chain),
                part=convert.part_message(self._part),
                lease=lease.id if lease else b"",
                wait_ms=convert.milliseconds(wait, "wait"),
                purpose=PURPOSE.number(purpose),
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Loaded]:
        for number in range(len(self._verdicts), len(self._chain)):
            try:
                sealed = self._received(number)
                into = None if self._into is None else self._into[number]
                block = decoded(sealed.header, sealed.payload, self._part, into, own=True) if sealed else None
            except CorruptBlock:
                self._verdicts[number] = Verdict.CORRUPT
                return
            if sealed is None or block is None:
                return
            self._verdicts[number] = Verdict.USED
            yield Loaded(block, sealed.tier)

    def close(self) -> None:
        """Ends the stream and tells what became of each block. Closing twice is allowed; a lost Release is not told."""
        if self._call is None:
            return
        self._call.cancel()
        self._call = None
        verdicts = [verdict for _, verdict in sorted(self._verdicts.items())]
        request = wire.ReleaseRequest(lease=self._lease, verdicts=[VERDICT.number(verdict) for verdict in verdicts])
        try:
            self._connection.call(
                "Release", request, max(GRACE_SECONDS, min(RELEASE_SECONDS, self._deadline.remaining()))
            )
        except CacheStoreError:
            # without it the lease runs out, and its blocks count as expired
            return

    def _start(self, request: wire.ReadRequest) -> None:
        with self._connection.errors("Read"):
            call = self._connection.read(request, timeout=max(self._deadline.remaining(), 1e-3))
            first = next(call, None)
        if not isinstance(first, wire.ReadResponse) or not first.HasField("granted"):
            call.cancel()
            raise Mismatch(f"the store at {self._connection.address} did not begin a read with its lease")
        self._call, self._lease = call, first.granted.lease

    def _received(self, number: int) -> _Sealed | None:
        while True:
            try:
                return self._block(number)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not self._resume(number):
                    return None

    def _resume(self, number: int) -> bool:
        """Asks for the blocks from `number` on again; whether the store took it."""
        request = wire.ReadRequest(
            chain=convert.chain_message(self._chain),
            part=convert.part_message(self._part),
            lease=self._lease,
            resume=wire.Resume(key=self._chain.keys[number]),
        )
        while self._resumes_left:
            self._resumes_left -= 1
            try:
                self._start(request)
                return True
            except Unavailable:
                # the channel may not have noticed yet that its connection is gone, or not have a new one
                time.sleep(min(RESUME_PAUSE, self._deadline.remaining()))
            except CacheStoreError:
                break
        return False

    def _block(self, number: int) -> _Sealed | None:
        message = next(self._call, None)
        if not isinstance(message, wire.ReadResponse) or not message.HasField("start"):
            return None
        start = message.start
        if start.block != number:
            raise CorruptBlock("foreign")
        header = Header.parse(start.header)
        header.check_identity(header.namespace, self._chain.keys[number], self._chain.fingerprint)
        if header.flags & ENCRYPTED:
            raise CorruptBlock("codec")
        payload = np.empty(header.payload_bytes, dtype=np.uint8)
        for begin, end in ranges(header, self._part):
            at = begin
            while at < end:
                frame = next(self._call, None)
                if not isinstance(frame, BlockFrame):
                    return None
                size = frame.data.nbytes
                if frame.head.block != number or frame.head.offset != at or not 0 < size <= end - at:
                    raise CorruptBlock("foreign")
                np.copyto(payload[at : at + size], frame.data)
                at += size
        last = next(self._call, None)
        sent = isinstance(last, wire.ReadResponse) and last.HasField("end") and last.end.status == wire.SENT
        return _Sealed(header, payload, start.tier) if sent else None
