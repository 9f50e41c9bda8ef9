"""How the payload of reads and puts travels between a store and its client.

A transport is asked whether it can serve a read or a put; what it does not take, and what breaks under way, the next
one serves, under the same lease. The gRPC stream is always there and always the last.
"""

from collections.abc import Generator, Mapping, Sequence
from functools import cache
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

from cachestore.block import Buffer, Into, Part
from cachestore.codecs.base import Codec, Encoded
from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.service.convert_put import Reservation
from cachestore.store.base import Loaded, Provisional, PutAnswer
from cachestore.store.handing import Handed
from cachestore.store.spread import Spread
from cachestore.wire import store_pb2 as wire


class Broken(Exception):
    """The transport broke under way, or has not what comes next; another may go on under the same lease."""


class Asked(NamedTuple):
    """What a read wants: `request` says the same to the store, with the lease to use and where to begin."""

    chain: Chain
    part: Part
    request: wire.ReadRequest


class Source(Protocol):
    """The blocks of one read, as they come from the store."""

    @property
    def lease(self) -> bytes:
        """The lease that the read goes on under."""

    def load(self, number: int, into: Buffer | None) -> Loaded | None:
        """The next block of the chain, decoded and verified, in `into` if given; None if it cannot be had.

        Numbers come in order, from the first asked for. CorruptBlock if what arrived does not hold, Broken if another
        transport should go on with this block.
        """

    def close(self) -> None:
        """Ends the read; its lease stays. Closing twice is allowed."""


@runtime_checkable
class Fills(Protocol):
    """A source that can hand out many blocks at once."""

    def fill(self, number: int, into: Sequence[Into | Handed]) -> int:
        """Some blocks from `number` on, verified, to where each is to go; how many: none if the first takes more than
        copying, or there is none.

        What there is to say of it, `load` says. What lies in the buffers of those that did not come is undefined, and
        what a taker has of them is void.
        """


@cache
def _fill(kind: type) -> bool:
    return issubclass(kind, Fills)


def fills(source: object) -> TypeGuard[Fills]:
    """Whether this is such a source; `isinstance` looks at every method anew, which small reads would feel."""
    kind: type = type(source)
    return _fill(kind)


class Sink(Protocol):
    """Where the planes of one put go. One thread writes it; `abort` may come from another."""

    @property
    def answers(self) -> Sequence[PutAnswer]:
        """What became of each block when they were reserved."""

    def write(self, block: int, planes: range, data: Buffer) -> None:
        """Whole raw planes of a wanted block, one behind the other in `data`, which may be reused on return."""

    def write_encoded(self, block: int, plane: int, encoded: Sequence[Encoded]) -> None:
        """Planes of a wanted block from `plane` on in their stored form, which may be reused on return.

        What `cachestore.store.checks.check_encoded` says was checked. A checksum that does not hold fails the block.
        """

    def commit(self, blocks: Sequence[int], lease_ms: int) -> wire.WriteResponse:
        """Publishes blocks; what became of them, and the lease if one was asked for."""

    def abort(self) -> None:
        """Gives up what is not committed. Aborting twice is allowed."""


@runtime_checkable
class Lays(Protocol):
    """A sink that takes many blocks at once."""

    def lay(self, blocks: Mapping[int, Into] | Spread, wanted: Sequence[int]) -> None:
        """The raw wanted blocks of these, of which no plane came before, whole; they may be reused on return."""


@cache
def _lay(kind: type) -> bool:
    return issubclass(kind, Lays)


def lays(sink: object) -> TypeGuard[Lays]:
    """Whether this is such a sink, as `fills`."""
    kind: type = type(sink)
    return _lay(kind)


class Followed(Protocol):
    """A provisional read: planes of blocks that are being written, then the blocks."""

    @property
    def source(self) -> Source | None:
        """The blocks, once the planes are at their end; None if the time was over first."""

    @property
    def lease(self) -> bytes:
        """What the lease is called that the store was asked for, there or not; empty while it was not asked."""

    def planes(self) -> Generator[Provisional, None, None]:
        """The planes as they come. Raises what the store answers instead."""

    def close(self) -> None:
        """Ends it, but not `source`. Closing twice is allowed."""


@runtime_checkable
class Follows(Protocol):
    """A transport that can begin a provisional read."""

    def follow(self, asked: Asked, into: Sequence[Buffer] | None, wait: float, deadline: Deadline) -> Followed:
        """Begins one, which waits `wait` seconds; the store is asked when the first plane is."""


@runtime_checkable
class Looks(Protocol):
    """A transport that answers lookups sooner than a call does."""

    def lookup(self, request: wire.LookupRequest, deadline: Deadline) -> wire.LookupResponse | None:
        """What the store answers; None if this way is not open."""


@runtime_checkable
class Near(Protocol):
    """A transport that is open on the store's own node alone, where its memory is read in place."""

    def near(self, deadline: Deadline) -> bool:
        """Whether it is open."""


class Transport(Protocol):
    """One way to one store."""

    @property
    def name(self) -> str:
        """The name by which it is chosen."""

    def read(self, asked: Asked, deadline: Deadline) -> Source | None:
        """Begins a read; None if this way is not open. Raises what the store answers instead of blocks."""

    def put(self, reservation: Reservation, codec: Codec, deadline: Deadline) -> Sink | None:
        """Begins a put; None if this way is not open. Raises what the store answers instead of a reservation."""

    def release(self, request: wire.ReleaseRequest, timeout: float) -> None:
        """Ends a lease with its verdicts."""

    def close(self) -> None:
        """Gives up connections. Closing twice is allowed."""
