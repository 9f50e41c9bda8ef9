"""A store, served."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cachestore.errors import Unavailable
from cachestore.metrics import Figure
from cachestore.service import listening
from cachestore.service.allocation import keep_freed_memory
from cachestore.service.auth.authority import Authority, anyone
from cachestore.service.auth.exposure import Exposure
from cachestore.service.auth.guard import Guard
from cachestore.service.auth.shares import SharedBudget, shares
from cachestore.service.auth.tls import ServerTls
from cachestore.service.budget import Budget
from cachestore.service.bulk.reserving import Admission
from cachestore.service.bulk.server import BulkServer
from cachestore.service.health import probing
from cachestore.service.health.draining import Drain
from cachestore.service.health.probing import Look, Prober
from cachestore.service.health.servicer import SERVICE, WATCHES, Health
from cachestore.service.health.stalls import Stalls
from cachestore.service.members import Members
from cachestore.service.operation import Operator
from cachestore.service.operation_servicer import OperationServicer
from cachestore.service.options import SERVER
from cachestore.service.servicer import Servicer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared.server import SessionServer
from cachestore.store.tiered import TieredStore
from cachestore.wire import operation_pb2
from cachestore.wire.operation_pb2_grpc import OperationServicer as NoOperation
from cachestore.wire.operation_pb2_grpc import add_OperationServicer_to_server
from cachestore.wire.store_pb2_grpc import add_CacheStoreServicer_to_server

OPERATION = operation_pb2.DESCRIPTOR.services_by_name["Operation"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

SPARE = 16
"""Threads beyond `max_concurrent`: calls that are refused, health and reflection need one for a moment."""


class CacheStoreServer:
    """Serves an open `store` under `settings`; `node` is this node's name in answers. The store stays the caller's.

    An admin is shown the figures of `beside`, too, and may call on the `operator`, if there is one. Other nodes are
    answered that mean a life which `is_life`, as `Authority` has it. Health takes
    `looks` besides its own.
    """

    def __init__(
        self,
        store: TieredStore,
        settings: ServiceSettings,
        node: str = "local",
        beside: Callable[[], list[Figure]] = list,
        operator: Operator | None = None,
        is_life: Callable[[str], bool] = anyone,
        looks: Mapping[str, Look] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._beside = beside
        self._operator = operator
        self._settings = settings
        self._node = node
        self._more = looks
        self.calls = Budget(settings.max_concurrent, "concurrent calls")
        self.bytes_in_flight = Budget(settings.in_flight_bytes, "bytes in flight")
        self.drain = Drain(self.calls)
        callers = len(settings.identities)
        self.members = Members(callers=callers)
        share = shares(settings.max_concurrent, callers, "concurrent calls")
        whole = self.bytes_in_flight
        self.in_flight = SharedBudget(whole, shares(whole.limit, callers, whole.unit))
        self.sessions = SessionServer(store, settings, self.calls, share, self.in_flight, self.drain)
        self.stalls = Stalls(settings.stall)
        watches = shares(WATCHES, callers, "watches of health")
        self.guard = Guard(self.calls, settings.longest_call, Authority(settings, is_life), self.stalls, share, watches)
        self.tls = ServerTls(settings)
        self.exposure = Exposure(settings)
        admission = Admission(store, settings, self.calls, share, self.drain)
        self.bulk = BulkServer(settings, self.in_flight, admission, self.tls.context if settings.tls else None)
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor
        self._health: Health
        self._prober: Prober
        self._address = ""

    @property
    def address(self) -> str:
        """Where clients find it; only while it is open."""
        if self._server is None:
            raise Unavailable("the server is not open")
        return self._address

    def figures(self) -> list[Figure]:
        """What the service itself counts, whoever calls."""
        return [
            Figure("insecure", (), int(self.exposure.exposed)),
            *self.guard.refused.figures(),
            *self.stalls.counters.figures(),
            *self.bulk.counters.figures(),
            *self.sessions.figures(),
            *self._beside(),
        ]

    def open(self) -> None:
        """Listens and serves. ConfigError if the address cannot be had, or a file of keys cannot be used.

        From here on this process keeps memory that it frees: see `cachestore.service.allocation`.
        """
        keep_freed_memory()
        self.guard.open()
        threads = self._settings.max_concurrent + SPARE
        self._health, self.drain.begun = Health(), False
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="cachestore-service")
        server = grpc.server(
            self._threads,
            interceptors=[self.drain, self.guard],
            options=SERVER,
            maximum_concurrent_rpcs=threads,
        )
        servicer = Servicer(
            self._store, self._settings, self.members, self.in_flight, self._node, self.sessions, self.bulk,
            self.stalls, self.drain, self.figures,
        )  # fmt: skip
        add_CacheStoreServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        operated = self._operator
        methods = NoOperation() if operated is None else OperationServicer(operated, self._settings.longest_call)
        add_OperationServicer_to_server(methods, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, OPERATION, HEALTH, reflection.SERVICE_NAME), server)
        self._address = listening.listen(server, self._settings, self.tls)
        # before the sessions, which leave nothing undone: its port may be taken, and then nothing is to be tidied up
        self.bulk.open()
        self.sessions.open()
        self.stalls.open()
        server.start()
        self.exposure.open()
        self._prober = Prober(self._health, self._looks(), self._settings.probe_every)
        self._prober.open()
        self._server = server

    def close(self, grace: float | None = None) -> None:
        """Says NOT_SERVING, refuses new calls, gives those that run `grace` seconds to end (`drain` of the settings).

        What runs then is cancelled. It ends sooner if nothing runs. Closing twice is allowed.
        """
        if self._server is None:
            return
        self._health.leave()
        self.drain.begin()
        left = self.drain.settle(self._settings.drain if grace is None else grace, self.sessions.lent)
        self._prober.close()
        self._health.end()
        stopped = self._server.stop(left)
        self.bulk.close(left)
        stopped.wait()
        self._server = None
        self.stalls.close()
        self.sessions.close()
        self._threads.shutdown(wait=False)
        self.exposure.close()
        listening.leave(self._settings)

    def _looks(self) -> dict[str, Look]:
        """What health looks at."""
        settings, looks = self._settings, probing.tiers(self._store)
        looks["path/stream"] = probing.stream(self._threads)
        if settings.shared:
            looks["path/shared"] = probing.shared(self.sessions)
        if self.bulk.port:
            looks["path/bulk"] = probing.bulk(settings.host, self.bulk)
        return looks | dict(self._more)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
