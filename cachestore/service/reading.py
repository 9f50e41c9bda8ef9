"""The server's side of a read: blocks in order, each as its header, the ranges its reader asked for, and an end."""

from collections.abc import Iterator
from contextlib import closing

from cachestore.block import Part
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.seal import CorruptBlock
from cachestore.service import convert, frames
from cachestore.service.ranges import ranges
from cachestore.service.words import PURPOSE
from cachestore.store.base import Lease
from cachestore.store.local import LocalStore
from cachestore.store.reading import SealedBlock
from cachestore.wire import store_pb2 as wire


def read(
    store: LocalStore, request: wire.ReadRequest, frame_bytes: int, deadline: Deadline
) -> Iterator[wire.ReadResponse | bytes]:
    """The answers to one Read. Ending it early ends the reading; its lease is the caller's to release."""
    first, resume = 0, request.resume if request.HasField("resume") else None
    chain = convert.chain(request.chain)
    if resume is not None:
        first = convert.resumed(resume, chain)
    if request.lease and request.lease_ms:
        raise InvalidArgument("lease_ms is for a lease opened here; leave it out with `lease`, or renew with Lease")
    part = convert.part(request.part)
    given = Lease(convert.identifier(request.lease, "lease"), 0, 0.0) if request.lease else None
    reading = store.open(
        chain,
        part=part,
        lease=given,
        ttl=convert.seconds(request.lease_ms),
        wait=convert.seconds(request.wait_ms) or 0.0,
        purpose=PURPOSE.word(request.purpose),
        timeout=deadline.remaining(),
    )
    with closing(reading):
        lease = reading.lease
        granted = wire.Granted(lease=lease.id, lease_ms=round(lease.ttl * 1000), runs=convert.run_messages(lease.runs))
        yield wire.ReadResponse(granted=granted)
        for block in reading:
            if block.number < first:
                continue
            try:
                yield from _sent(block, part, frame_bytes)
            except CorruptBlock:
                # its memory was taken for another block meanwhile: to the reader it is gone
                yield wire.ReadResponse(end=wire.BlockEnd(block=block.number, status=wire.GONE))
                return


def _sent(block: SealedBlock, part: Part, frame_bytes: int) -> Iterator[wire.ReadResponse | bytes]:
    number = block.number
    yield wire.ReadResponse(start=wire.BlockStart(block=number, header=block.packed, tier=block.tier))
    for start, end in ranges(block.header, part):
        for at in range(start, end, frame_bytes):
            head = wire.BlockData(block=number, offset=at)
            frame = frames.block_frame(head, block.payload[at : min(at + frame_bytes, end)])
            block.check()
            yield frame
    yield wire.ReadResponse(end=wire.BlockEnd(block=number, status=wire.SENT))
