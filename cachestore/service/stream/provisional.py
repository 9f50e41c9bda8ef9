"""The server's side of a provisional read, before its lease: planes of blocks that are being written, as they come.

They are sent from the slots they lie in, a frame at a time, so whoever takes them slowly costs what one frame takes.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from cachestore.block import Part, PlaneId
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.plane_table import Stored
from cachestore.seal import Header
from cachestore.service import convert
from cachestore.service.convert_put import layout_message
from cachestore.service.stream import frames
from cachestore.store.local import LocalStore
from cachestore.store.provisional import Began, Ended, Wrote, sight
from cachestore.store.received import same_sums
from cachestore.store.tiered import TieredStore
from cachestore.wire import store_pb2 as wire

MOST_SEGMENTS = 4096
"""Pieces of planes in one frame, so that tiny ones do not make a message too large."""

Segment = wire.PlaneFrame.Segment


@dataclass
class Sent:
    """The raw checksums of the planes of `part` that were sent, by block and plane."""

    part: Part
    sums: dict[int, dict[int, int]] = field(default_factory=dict)

    def has(self, number: int, header: Header) -> bool:
        """Whether all that the part has of the block published with this header was sent."""
        return number in self.sums and same_sums(self.sums[number], header, header.select(self.part))


def follow(
    store: LocalStore,
    request: wire.ReadRequest,
    frame_bytes: int,
    deadline: Deadline,
    on_end: Callable[[Callable[[], None]], bool],
) -> Generator[wire.ReadResponse | bytes, None, Sent | None]:
    """Messages up to the time when the read may be granted; what was sent by then, None if the caller has left.

    `on_end` takes what is to be called when the caller leaves, False if it has.
    """
    if request.lease or request.HasField("resume"):
        raise InvalidArgument("provisional is for a read that begins: leave it out with `lease` or `resume`")
    sent = Sent(convert.part(request.part))
    following = store.follow(convert.chain(request.chain), convert.seconds(request.wait_ms) or 0.0, deadline)
    if not on_end(following.end):
        following.end()
    last: tuple[PlaneId, ...] = ()
    with closing(iter(following)) as heard:
        for news in heard:
            match news:
                case Began(number, planes):
                    sent.sums[number] = {}
                    layout = None if planes == last else layout_message(planes)
                    yield wire.ReadResponse(began=wire.Began(block=number, layout=layout))
                    last = planes
                case Wrote():
                    yield from _frames(store.tiered, news, sent, frame_bytes)
                case Ended(number, published):
                    if not published:
                        del sent.sums[number]
                    yield wire.ReadResponse(published=wire.Published(block=number, aborted=not published))
    return None if following.over else sent


def _frames(tiered: TieredStore, wrote: Wrote, sent: Sent, frame_bytes: int) -> Iterator[bytes]:
    """The planes that were written, so far as their block is still there when it is their turn."""
    ids = wrote.block.layout.planes
    rows = [
        (number, row)
        for planes in wrote.runs
        for number, row in zip(planes, wrote.block.stored(planes), strict=True)
        if sent.part.holds(*ids[number][:3])
    ]
    for segments, places in _cut(rows, frame_bytes):
        head = wire.PlaneFrame(block=wrote.number, segments=segments)
        looked = 0
        while True:
            seen = sight(tiered, wrote.block)
            # a block that was moved is looked for again; what stays where it is and is not current has lost its number
            # to a writer who may write there
            if seen is None or seen.generation == looked:
                return
            looked = seen.generation
            frame = frames.provisional_frame(head, [seen.payload[place] for place in places])
            if seen.current:
                break
        yield frame
    sums = sent.sums[wrote.number]
    for number, row in rows:
        sums[number] = row.raw_checksum


def _cut(rows: Sequence[tuple[int, Stored]], frame_bytes: int) -> Iterator[tuple[list[Segment], list[slice]]]:
    """The segments of one frame after the other, and where their bytes are in the payload."""
    segments: list[Segment] = []
    places: list[slice] = []
    filled = 0
    for number, row in rows:
        encoding = wire.Encoding(
            codec=row.codec,
            stored_bytes=row.stored_bytes,
            stored_checksum=row.stored_checksum,
            raw_checksum=row.raw_checksum,
        )
        for offset in range(0, row.stored_bytes, frame_bytes):
            length = min(frame_bytes, row.stored_bytes - offset)
            if segments and (filled + length > frame_bytes or len(segments) == MOST_SEGMENTS):
                yield segments, places
                segments, places, filled = [], [], 0
            segments.append(Segment(plane=number, encoding=encoding, offset=offset, length=length))
            places.append(slice(row.offset + offset, row.offset + offset + length))
            filled += length
    if segments:
        yield segments, places
