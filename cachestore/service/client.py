"""A store somewhere else, with the interface of a local one."""

from collections.abc import Sequence
from typing import Any, Self

from cachestore.block import WHOLE, Into, Part
from cachestore.codecs import create
from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, Unavailable
from cachestore.hashing import Chain
from cachestore.metrics import Figure
from cachestore.service import convert, convert_pins, convert_put
from cachestore.service.auth.credentials import Credentials
from cachestore.service.connection import Connection
from cachestore.service.members import Member
from cachestore.service.remote_put import RemotePut
from cachestore.service.remote_reading import RemoteReading
from cachestore.service.transport import Looks, Near, Transport
from cachestore.service.transports import ALL, start
from cachestore.service.words import VERDICT
from cachestore.store.base import (
    TIMEOUT,
    BlockPlan,
    Durability,
    Lease,
    Lookup,
    Pin,
    Purpose,
    Verdict,
)
from cachestore.store.checks import check_after, check_into, check_provisional
from cachestore.store.joint import check_groups
from cachestore.wire import store_pb2 as wire

FRAME_BYTES = 1 << 20
"""Bytes of planes in one message of a put."""


class RemoteStore:
    """The store served at `address`, `host:port` or `unix:/path`; follows `cachestore.store.base.Store`.

    Planes are encoded here, with `codec`, and travel by the first of `transports` that is open. Without
    `credentials` those of the environment are shown. ConfigError for what is no address. Besides the interface's errors
    every call may raise Unavailable, Unauthenticated and PermissionDenied.
    """

    def __init__(
        self,
        address: str,
        *,
        codec: str = "raw",
        frame_bytes: int = FRAME_BYTES,
        transports: Sequence[str] = ALL,
        credentials: Credentials | None = None,
    ) -> None:
        self._connection = Connection(address, credentials)
        self._codec = create(codec, "codec")
        if not transports:
            raise InvalidArgument(f"transports must name at least one of {', '.join(ALL)}")
        self._transports: Sequence[Transport] = [start(name, self._connection, frame_bytes) for name in transports]
        self._looks = [transport for transport in self._transports if isinstance(transport, Looks)]

    @property
    def connection(self) -> Connection:
        """For what is opened beside it."""
        return self._connection

    @property
    def transports(self) -> Sequence[Transport]:
        """The ways that payload takes, in the order in which they are tried."""
        return self._transports

    def open(self) -> None:
        """Gets ready to call; the first call connects. ConfigError for credentials that cannot be used."""
        self._connection.open()

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        self._connection.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def lookup(self, chain: Chain, *, timeout: float = TIMEOUT) -> Lookup:
        deadline = Deadline.after(timeout)
        request = wire.LookupRequest(chain=convert.chain_message(chain))
        found = (transport.lookup(request, deadline) for transport in self._looks)
        answer = next(filter(None, found), None) or self._connection.call("Lookup", request, deadline.remaining())
        return convert.lookup(answer)

    def near(self, *, timeout: float = TIMEOUT) -> bool:
        deadline = Deadline.after(timeout)
        return any(transport.near(deadline) for transport in self._transports if isinstance(transport, Near))

    def lease(self, chain: Chain, *, ttl: float | None = None, timeout: float = TIMEOUT) -> Lease:
        request = wire.LeaseRequest(chain=convert.chain_message(chain), lease_ms=convert.lifetime(ttl))
        return convert.lease(self._call("Lease", request, timeout))

    def renew(self, lease_id: bytes, ttl: float, *, timeout: float = TIMEOUT) -> Lease:
        """Prolongs a lease to `ttl` seconds from now; LeaseExpired if it is unknown or over."""
        request = wire.LeaseRequest(renew=lease_id, lease_ms=convert.lifetime(ttl))
        return convert.lease(self._call("Lease", request, timeout))

    def release(self, lease: Lease, verdicts: Sequence[Verdict] = (), *, timeout: float = TIMEOUT) -> None:
        request = wire.ReleaseRequest(lease=lease.id, verdicts=VERDICT.numbers(verdicts))
        self._call("Release", request, timeout)

    def read(
        self,
        chain: Chain,
        *,
        part: Part = WHOLE,
        into: Sequence[Into] | None = None,
        lease: Lease | None = None,
        wait: float = 0.0,
        provisional: bool = False,
        purpose: Purpose = Purpose.REUSE,
        timeout: float = TIMEOUT,
    ) -> RemoteReading:
        check_into(into, len(chain))
        if provisional:
            check_provisional(lease, into)
        reading = RemoteReading(self._transports, chain, part, into, Deadline.after(timeout))
        reading.open(lease, wait, purpose, provisional=provisional)
        return reading

    def put(
        self,
        fingerprint: bytes,
        plans: Sequence[BlockPlan],
        *,
        after: bytes | None = None,
        codec: Codec | None = None,
        durability: Durability = Durability.CACHE,
        ttl: float | None = None,
        groups: range | None = None,
        timeout: float = TIMEOUT,
    ) -> RemotePut:
        deadline = Deadline.after(timeout)
        check_after(after, [plan.key for plan in plans])
        groups = check_groups(groups, plans, durability)
        reservation = convert_put.Reservation(fingerprint, tuple(plans), durability, ttl, after, groups)
        chosen = codec or self._codec
        for transport in self._transports:
            sink = transport.put(reservation, chosen, deadline)
            if sink is not None:
                return RemotePut(sink, reservation, chosen)
        raise Unavailable(f"no way to the store at {self._connection.address} is open for this put")

    def abort(self, put_id: bytes, *, timeout: float = TIMEOUT) -> int:
        """Gives up an open put from outside its stream; how many blocks were dropped."""
        blocks: int = self._call("Abort", wire.AbortRequest(put=put_id), timeout).blocks
        return blocks

    def pin(self, chain: Chain, ttl: float, *, timeout: float = TIMEOUT) -> int:
        request = wire.PinRequest(chain=convert.chain_message(chain), ttl_ms=convert.milliseconds(ttl, "ttl"))
        blocks: int = self._call("Pin", request, timeout).blocks
        return blocks

    def unpin(self, chain: Chain, *, timeout: float = TIMEOUT) -> int:
        blocks: int = self._call("Unpin", wire.UnpinRequest(chain=convert.chain_message(chain)), timeout).blocks
        return blocks

    def pins(self, *, timeout: float = TIMEOUT) -> list[Pin]:
        deadline = Deadline.after(timeout)
        found: list[Pin] = []
        cursor = b""
        while True:
            request = wire.ListPinsRequest(cursor=cursor)
            answer = self._connection.call("ListPins", request, deadline.remaining())
            found += convert_pins.pins(answer)
            cursor = answer.cursor
            if not cursor:
                return found

    def delete(self, chain: Chain, *, timeout: float = TIMEOUT) -> int:
        blocks: int = self._call("Delete", wire.DeleteRequest(chain=convert.chain_message(chain)), timeout).blocks
        return blocks

    def clear(self, tier: str = "", *, timeout: float = TIMEOUT) -> int:
        blocks: int = self._call("Clear", wire.ClearRequest(tier=tier), timeout).blocks
        return blocks

    def stats(self, *, timeout: float = TIMEOUT) -> list[Figure]:
        return convert.figures(self._call("Stats", wire.StatsRequest(), timeout).figures)

    def members(self, role: str = "", *, timeout: float = TIMEOUT) -> tuple[int, tuple[Member, ...]]:
        """The cluster map's epoch and its members of one role, or of all."""
        answer = self._call("ClusterMap", wire.ClusterMapRequest(role=role), timeout)
        return answer.epoch, tuple(map(convert.member, answer.members))

    def register(self, member: Member, ttl: float, *, timeout: float = TIMEOUT) -> int:
        """Says that `member` lives for `ttl` seconds more, zero that it leaves; the epoch of the cluster map."""
        request = wire.RegisterRequest(member=convert.member_message(member), ttl_ms=convert.milliseconds(ttl, "ttl"))
        epoch: int = self._call("Register", request, timeout).epoch
        return epoch

    def _call(self, method: str, request: object, timeout: float) -> Any:
        return self._connection.call(method, request, Deadline.after(timeout).remaining())
