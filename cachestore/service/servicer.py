"""The methods of the service, each a translation to the local store and back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import grpc

from cachestore.deadline import Deadline
from cachestore.metrics import Figure
from cachestore.service import convert, convert_pins
from cachestore.service.auth.guard import deadline_of
from cachestore.service.auth.identity import Role, identity_of, namespace_of
from cachestore.service.auth.shares import SharedBudget, Shares, shares
from cachestore.service.budget import Budget
from cachestore.service.bulk.server import BulkServer
from cachestore.service.events import watching
from cachestore.service.health.draining import Drain
from cachestore.service.health.stalls import Stalls
from cachestore.service.members import Members
from cachestore.service.settings import MAX_MESSAGE, ServiceSettings
from cachestore.service.shared.server import SessionServer
from cachestore.service.stream import reading, writing
from cachestore.service.stream.frames import PlaneFrame
from cachestore.store.base import Lease
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.wire import store_pb2 as wire
from cachestore.wire.store_pb2_grpc import CacheStoreServicer

Context = grpc.ServicerContext

WHOLE_TIERS = frozenset({"tier_used_bytes", "tier_capacity_bytes"})
EXPOSED = "insecure"
"""Figures of all namespaces together."""


@dataclass(eq=False)
class Servicer(CacheStoreServicer):
    """The methods that exist; the others are UNIMPLEMENTED by the generated base."""

    store: TieredStore
    settings: ServiceSettings
    members: Members
    bytes_in_flight: SharedBudget
    node: str
    sessions: SessionServer
    bulk: BulkServer
    stalls: Stalls
    drain: Drain
    own_figures: Callable[[], list[Figure]]
    """What the service itself counts, for those who see everything."""
    watchers: Budget = field(default_factory=lambda: Budget(watching.WATCHERS, "watches"))
    watching: Shares = field(init=False)
    """What of them one caller may hold."""

    def __post_init__(self) -> None:
        self.watching = shares(self.watchers.limit, len(self.settings.identities), "watches")

    def Lookup(self, request: wire.LookupRequest, context: Context) -> wire.LookupResponse:
        """How long a prefix is ready, and where."""
        found = self._local(context).lookup(convert.chain(request.chain), timeout=self._remaining(context))
        return convert.lookup_message(found)

    def Read(self, request: wire.ReadRequest, context: Context) -> Iterator[wire.ReadResponse | bytes]:
        """Blocks in order up to the first gap."""
        caller = identity_of(context)
        # one frame is being sent while the next is being made
        with self.bytes_in_flight.hold(caller, 2 * self.settings.frame_bytes), self.stalls.watched(context) as peer:
            answers = reading.read(
                self._local(context), request, self.settings.frame_bytes, self._deadline(context),
                partial(self.bulk.offer_read, context, self._local(context)), partial(self.drain.told, context),
                lambda: not context.is_active(),
            )  # fmt: skip
            yield from peer.sent(answers)

    def Write(
        self, requests: Iterator[wire.WriteRequest | PlaneFrame], context: Context
    ) -> Iterator[wire.WriteResponse]:
        """One put of many blocks."""
        caller = identity_of(context)
        with self.bytes_in_flight.hold(caller, MAX_MESSAGE), self.stalls.watched(context) as peer:
            answers = writing.write(
                self._local(context), peer.received(requests), self.bytes_in_flight, caller, self._deadline(context),
                partial(self.bulk.offer_put, context, peer),
            )  # fmt: skip
            yield from peer.sent(answers)

    def Abort(self, request: wire.AbortRequest, context: Context) -> wire.AbortResponse:
        """Gives up an open put from outside its stream."""
        blocks = self._local(context).abort(convert.identifier(request.put, "put"))
        return wire.AbortResponse(blocks=blocks)

    def Lease(self, request: wire.LeaseRequest, context: Context) -> wire.LeaseResponse:
        """Protects a ready prefix, or prolongs a lease."""
        store, ttl = self._local(context), convert.seconds(request.lease_ms)
        if request.renew:
            lease = store.renew(convert.identifier(request.renew, "renew"), convert.renewal(ttl))
        else:
            lease = store.lease(convert.chain(request.chain), ttl=ttl, timeout=self._remaining(context))
        return convert.lease_message(lease)

    def Release(self, request: wire.ReleaseRequest, context: Context) -> wire.ReleaseResponse:
        """Ends a lease with a verdict per block."""
        verdicts = convert.verdicts(request.verdicts)
        lease = Lease(convert.identifier(request.lease, "lease"), len(verdicts), 0.0)
        self._local(context).release(lease, verdicts, timeout=self._remaining(context))
        return wire.ReleaseResponse()

    def Pin(self, request: wire.PinRequest, context: Context) -> wire.PinResponse:
        """Keeps a ready prefix in memory for a while."""
        store, ttl = self._local(context), request.ttl_ms / 1000
        blocks = store.pin(convert.chain(request.chain), ttl, timeout=self._remaining(context))
        return wire.PinResponse(blocks=blocks, quota_left_bytes=store.pin_quota_left())

    def Unpin(self, request: wire.UnpinRequest, context: Context) -> wire.UnpinResponse:
        """Ends the pins of these blocks."""
        store = self._local(context)
        return wire.UnpinResponse(blocks=store.unpin(convert.chain(request.chain), timeout=self._remaining(context)))

    def ListPins(self, request: wire.ListPinsRequest, context: Context) -> wire.ListPinsResponse:
        """The namespace's pins by key, a page at a time."""
        return convert_pins.page(self._local(context).pins(timeout=self._remaining(context)), request)

    def Delete(self, request: wire.DeleteRequest, context: Context) -> wire.DeleteResponse:
        """Removes blocks from every tier."""
        store = self._local(context)
        return wire.DeleteResponse(blocks=store.delete(convert.chain(request.chain), timeout=self._remaining(context)))

    def Clear(self, request: wire.ClearRequest, context: Context) -> wire.ClearResponse:
        """Removes all blocks of the namespace from one tier or all."""
        blocks = self._local(context).clear(convert.name(request.tier, "tier"), timeout=self._remaining(context))
        return wire.ClearResponse(blocks=blocks)

    def Stats(self, request: wire.StatsRequest, context: Context) -> wire.StatsResponse:
        """Every figure counted in the namespace, and whether others could read along.

        For an admin those of the service and of whole tiers too.
        """
        figures = self._local(context).stats(timeout=self._remaining(context))
        if identity_of(context).role is Role.admin:
            figures += self.own_figures()
        else:
            # how full a tier is tells to the byte what others put
            figures = [figure for figure in figures if figure.name not in WHOLE_TIERS]
            # that others could read along concerns everybody, and tells nothing of them
            figures += [figure for figure in self.own_figures() if figure.name == EXPOSED]
        return wire.StatsResponse(
            node=self.node, incarnation=self.store.incarnation, figures=convert.figure_messages(figures)
        )

    def Watch(self, request: wire.WatchRequest, context: Context) -> Iterator[wire.WatchResponse]:
        """What appears and disappears in the namespace."""
        with self.watching.hold(identity_of(context)), self.watchers.hold(1), self.stalls.watched(context) as peer:
            told = partial(self.drain.told, context)
            yield from peer.sent(watching.watch(self._local(context), request, self._deadline(context), told))

    def Attach(self, request: wire.AttachRequest, context: Context) -> wire.AttachResponse:
        """Where a client of this node gets at the store's memory."""
        path, ticket = self.sessions.attach(identity_of(context), request.writer)
        return wire.AttachResponse(socket=path, ticket=ticket)

    def ClusterMap(self, request: wire.ClusterMapRequest, context: Context) -> wire.ClusterMapResponse:
        """Who is in the cluster."""
        epoch, members = self.members.list(convert.name(request.role, "role"))
        return wire.ClusterMapResponse(epoch=epoch, members=map(convert.member_message, members))

    def Register(self, request: wire.RegisterRequest, context: Context) -> wire.RegisterResponse:
        """A worker makes itself known, or says it is still there."""
        ttl = convert.seconds(request.ttl_ms) or 0.0
        epoch = self.members.register(convert.member(request.member), ttl, identity_of(context).name)
        return wire.RegisterResponse(epoch=epoch)

    def _local(self, context: Context) -> LocalStore:
        identity = identity_of(context)
        if identity.role is Role.peer:
            return self.store.for_peer(bytes.fromhex(identity.namespace))
        return self.store.namespace(namespace_of(context))

    def _deadline(self, context: Context) -> Deadline:
        return deadline_of(context, self.settings.longest_call)

    def _remaining(self, context: Context) -> float:
        return self._deadline(context).remaining()
