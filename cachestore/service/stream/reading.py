"""The server's side of a read: blocks in order, each as its header, the ranges its reader asked for, and an end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from threading import Event
from typing import NamedTuple

from cachestore.block import Part
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, InvalidArgument, LeaseExpired
from cachestore.seal import CorruptBlock, digest
from cachestore.service import carried, convert
from cachestore.service.ranges import ranges
from cachestore.service.stream import frames, provisional
from cachestore.service.words import PURPOSE
from cachestore.store.base import Lease
from cachestore.store.local import LocalStore
from cachestore.store.owned_page import Show
from cachestore.store.reading import SealedBlock, SealedReading
from cachestore.wire import store_pb2 as wire

MOST_JOINED = 64 << 10
"""Bytes of the longest header that comes along with a frame: beside it a message has room for the largest one."""


class Opened(NamedTuple):
    """A read that has its lease; blocks are wanted from `place` on."""

    sealed: SealedReading
    granted: wire.Granted
    part: Part
    place: convert.Place

    @property
    def first(self) -> int:
        """The block to begin with."""
        return self.place.block


def opened(
    store: LocalStore,
    request: wire.ReadRequest,
    deadline: Deadline,
    over: Callable[[], bool] | None = None,
    show: Show | None = None,
) -> Opened:
    """The read that a request asks for, by whichever way its blocks will travel; `over` ends its wait for blocks.

    `show` has the pages that its reader can open, if it can open any.
    """
    chain = convert.chain(request.chain)
    place = convert.place(request.resume, chain) if request.HasField("resume") else convert.Place()
    if request.lease and request.lease_ms:
        raise InvalidArgument("lease_ms is for a lease opened here; leave it out with `lease`, or renew with Lease")
    if request.lease and request.new_lease:
        raise InvalidArgument("new_lease names a lease opened here; leave it out with `lease`")
    part = convert.part(request.part)
    given = Lease(convert.identifier(request.lease, "lease"), 0, 0.0) if request.lease else None
    sealed = store.open(
        chain,
        part=part,
        lease=given,
        ttl=convert.seconds(request.lease_ms),
        wait=convert.seconds(request.wait_ms) or 0.0,
        over=over,
        show=show,
        first=place.block,
        purpose=PURPOSE.word(request.purpose),
        timeout=deadline.remaining(),
        new_lease=convert.new_lease(request.new_lease),
    )
    lease = sealed.lease
    granted = wire.Granted(lease=lease.id, lease_ms=round(lease.ttl * 1000), runs=convert.run_messages(lease.runs))
    return Opened(sealed, granted, part, place)


def read(
    store: LocalStore,
    request: wire.ReadRequest,
    frame_bytes: int,
    deadline: Deadline,
    offer: Callable[[Opened], wire.BulkOffer | None],
    on_end: Callable[[Callable[[], None]], bool],
    gone: Callable[[], bool],
) -> Iterator[wire.ReadResponse | bytes]:
    """The answers to one Read. Ending it early ends the reading; its lease is the caller's to release.

    `offer` is asked, for a caller who would take them so, whether the blocks may go over the bulk path: then they do.
    `on_end` takes what is to be called when the caller leaves, False if it has; `gone` says whether it has left.
    """
    sent = None
    if request.provisional:
        sent = yield from provisional.follow(store, request, frame_bytes, deadline, on_end)
        if sent is None:
            return
        deadline.check("waiting for blocks that are being written")
        request.wait_ms = 0
    over = Event() if request.wait_ms else None
    if over is not None and not on_end(over.set):
        over.set()
    sealed, granted, part, place = agreed = opened(store, request, deadline, over.is_set if over else None)
    with ExitStack() as ending:
        ending.callback(sealed.close)
        if gone() and not request.lease:
            # what its caller may have said of it on leaving came before it was there
            with suppress(LeaseExpired):
                store.release(sealed.lease)
            return
        # the bulk path begins with whole blocks
        bulk = offer(agreed) if request.bulk and not place.digest else None
        if bulk is not None:
            granted.bulk.CopyFrom(bulk)
            # whoever shows the ticket goes on with the reading, in a thread of its own, and ends it
            ending.pop_all()
        yield wire.ReadResponse(granted=granted)
        if bulk is not None:
            return
        for block in sealed:
            offset = place.offset if block.number == place.block else 0
            if block.number == place.block and place.digest not in (b"", digest(block.packed)):
                raise Aborted("resume.digest: the block is another one by now; ask for it from its beginning")
            try:
                if sent is not None and sent.has(block.number, block.header):
                    messages = _known(block)
                else:
                    messages = _sent(block, part, frame_bytes, offset, joined=request.joined)
                for message, last in messages:
                    if last:
                        carried.read(store, "stream", [carried.sealed_bytes(block.header, part)])
                    yield message
            except CorruptBlock:
                # its memory was taken for another block meanwhile: to the reader it is gone
                yield wire.ReadResponse(end=wire.BlockEnd(block=block.number, status=wire.GONE))
                return


class _Answer(NamedTuple):
    message: wire.ReadResponse | bytes
    last: bool = False
    """Whether the block is there with it."""


def _start(block: SealedBlock, *, known: bool = False) -> wire.BlockStart:
    return wire.BlockStart(block=block.number, header=block.packed, tier=block.tier, known=known)


def _end(block: SealedBlock) -> _Answer:
    return _Answer(wire.ReadResponse(end=wire.BlockEnd(block=block.number, status=wire.SENT)), last=True)


def _known(block: SealedBlock) -> Iterator[_Answer]:
    yield _Answer(wire.ReadResponse(start=_start(block, known=True)))
    yield _end(block)


def _sent(block: SealedBlock, part: Part, frame_bytes: int, offset: int, *, joined: bool) -> Iterator[_Answer]:
    pieces = [
        (at, min(at + frame_bytes, end))
        for begin, end in ranges(block.header, part)
        for at in range(max(begin, offset), end, frame_bytes)
    ]
    start = _start(block)
    # to gRPC a short message is as much work as half a megabyte more in a long one
    joined = joined and bool(pieces) and len(block.packed) <= MOST_JOINED
    if not joined:
        yield _Answer(wire.ReadResponse(start=start))
    for number, (at, end) in enumerate(pieces, 1):
        first, last = joined and number == 1, joined and number == len(pieces)
        head = wire.BlockData(block=block.number, offset=at, start=start if first else None, last=last)
        frame = frames.block_frame(head, block.payload[at:end])
        block.check()
        yield _Answer(frame, last)
    if not joined:
        yield _end(block)
