import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse, HealthListRequest

from cachestore.codecs import create
from cachestore.eviction.lru import Lru
from cachestore.metrics import total
from cachestore.service.auth.certificates import Made, make
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import Identity
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tokens import digest_of, load_private, new_token, sign
from cachestore.service.client import RemoteStore
from cachestore.service.pages.node_pages import NodePages
from cachestore.service.pages.owner_store import OwnerStore
from cachestore.service.pages.reader_store import ReaderStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared.client import SharedSession
from cachestore.service.shared.mapped import Mapped
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_memory import GRANULE
from cachestore.tiers.gpu_tier import GpuTier
from tests.service.bulk_lines import BULK, Raw
from tests.service.sessions import SHARED, SOON, WRITER, Attach, probed

SERVE = Path(__file__).with_name("serve_process.py")


class Process:
    """A server in another process."""

    def __init__(self, **settings: object) -> None:
        command = [sys.executable, str(SERVE), json.dumps({"port": 0, **settings})]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.popen.stdout is not None
        self.address = self.popen.stdout.readline().strip()
        assert self.address

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Starts servers in other processes."""
    started: list[Process] = []

    def start(**settings: object) -> Process:
        started.append(Process(**settings))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="module")
def elsewhere(people: "People") -> Iterator[Callable[[], RemoteStore]]:
    """Clients of one server in another process, each in a namespace of its own."""
    known = people.settings
    process = Process(**{**known, "identities": [asdict(identity) for identity in known["identities"]]})
    numbers = count()

    def client() -> RemoteStore:
        return RemoteStore(process.address, credentials=people.credentials("worker", f"tenant-{next(numbers)}"))

    yield client
    process.kill()


@pytest.fixture
def tiered() -> Iterator[TieredStore]:
    with TieredStore(Cpu(64 << 20).start(), (), create("raw"), Lru()) as store:
        yield store


def looked(server: CacheStoreServer) -> bool:
    """Whether health has looked at everything, and given back what it took for that."""
    said = server._health.List(HealthListRequest(), None).statuses.values()  # type: ignore[arg-type]
    held = len(server.bulk.guests) + total(server.figures(), "sessions")
    return all(one.status != HealthCheckResponse.UNKNOWN for one in said) and not held


@pytest.fixture
def serve(
    tiered: TieredStore, eventually: Callable[[Callable[[], object]], None]
) -> Iterator[Callable[..., CacheStoreServer]]:
    """Serves `tiered` in this process under the settings given; afterwards nothing may be held.

    Health has looked at everything once and for all: what it takes for that would be counted with what tests take.
    """
    servers: list[CacheStoreServer] = []

    def start(**settings: Any) -> CacheStoreServer:
        server = CacheStoreServer(tiered, ServiceSettings(**{"port": 0, "probe_every": 3600.0, **settings}), "test")
        server.open()
        servers.append(server)
        eventually(lambda: looked(server))
        return server

    yield start
    for server in servers:
        server.close()
        # calls that were cancelled give back what they held in threads of their own
        eventually(lambda server=server: server.calls.used == server.bytes_in_flight.used == 0)  # type: ignore[misc]
    tiered.check()


@pytest.fixture
def server(serve: Callable[..., CacheStoreServer]) -> CacheStoreServer:
    return serve()


@pytest.fixture
def calm(serve: Callable[..., CacheStoreServer]) -> CacheStoreServer:
    """A server in which nothing goes on unless it is asked for: health has looked at everything, once and for all."""
    server = serve(probe_every=3600.0)
    probed(server)
    return server


@pytest.fixture
def attach(request: pytest.FixtureRequest) -> Iterator[Attach]:
    """Begins sessions with `server`, or with `calm` where a test has that, as the client does for any identity."""
    sessions: list[SharedSession] = []
    server: CacheStoreServer = request.getfixturevalue("calm" if "calm" in request.fixturenames else "server")

    def begin(identity: Identity = WRITER, *, writer: bool = True, known: Any = None) -> SharedSession:
        path, ticket = server.sessions.attach(identity, writer)
        known = WeakValueDictionary[int, Mapped]() if known is None else known
        sessions.append(SharedSession(path, known, lambda: True))
        sessions[-1].open(ticket, SOON)
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


@pytest.fixture
def remote(server: CacheStoreServer) -> Iterator[RemoteStore]:
    with RemoteStore(server.address) as store:
        yield store


@pytest.fixture
def shared(server: CacheStoreServer) -> Iterator[RemoteStore]:
    with RemoteStore(server.address, transports=SHARED) as store:
        yield store


@pytest.fixture
def bulk(server: CacheStoreServer) -> Iterator[RemoteStore]:
    with RemoteStore(server.address, transports=BULK) as store:
        yield store


@pytest.fixture
def tier() -> Iterator[GpuTier]:
    """Pages in memory of this process."""
    tier = Gpu(capacity=4 * GRANULE, device="cpu", slab=GRANULE).start(Lru())
    tier.open(lambda departures: None)
    yield tier
    tier.close()


@pytest.fixture
def owner(server: CacheStoreServer, tier: GpuTier) -> Iterator[OwnerStore]:
    """A store whose puts fill pages of `tier`."""
    with OwnerStore(server.address, tier, "cpu") as store:
        yield store


@pytest.fixture
def reader(server: CacheStoreServer) -> Iterator[ReaderStore]:
    """A store whose reads come from the pages of whoever is there."""
    with ReaderStore(server.address, "cpu") as store:
        yield store


@pytest.fixture
def raw(server: CacheStoreServer) -> Iterator[Raw]:
    raw = Raw(server)
    yield raw
    for line in raw.lines:
        line.close()


@pytest.fixture
def channel(server: CacheStoreServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


NAMES = ("localhost", "127.0.0.1")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An authority, a certificate for this machine's loopback, one for a client, and a gateway's key."""
    return make(tmp_path_factory.mktemp("certs"), NAMES, ["alice"])


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same of an authority that nobody trusts."""
    return make(tmp_path_factory.mktemp("strange"), NAMES, ["alice"])


class People:
    """Callers with a token each: `reader`, `alice` and `bob` (writers), `worker` (a delegate), `admin`, `peer`."""

    WHO = (
        ("reader", "reader", "a"), ("alice", "writer", "a"), ("bob", "writer", "b"), ("worker", "delegate", ""),
        ("admin", "admin", "a"), ("peer", "peer", ""),
    )  # fmt: skip

    def __init__(self, made: Made) -> None:
        self.made = made
        self.tokens = {name: new_token() for name, _, _ in self.WHO}
        self.gateway = load_private(made.gateway_key.read_bytes(), "gateway")

    @property
    def settings(self) -> dict[str, Any]:
        """What a server must know of them."""
        identities = tuple(
            IdentitySettings(name, role, namespace, f"sha256:{digest_of(self.tokens[name]).hex()}")
            for name, role, namespace in self.WHO
        )
        return {"identities": identities, "gateway_key": str(self.made.gateway_public)}

    def credentials(self, name: str, tenant: str = "", **more: Any) -> Credentials:
        """What one of them shows; a delegate may name a tenant."""
        return Credentials(token=self.tokens[name], tenant=self.sign(tenant) if tenant else "", **more)

    def sign(self, namespace: str, **options: Any) -> str:
        """A tenant's token, signed by the gateway."""
        return sign(self.gateway, namespace, **options)


@pytest.fixture(scope="session")
def people(made: Made) -> People:
    """Callers of every role."""
    return People(made)


@pytest.fixture
def opened() -> Iterator[Callable[..., tuple[RemoteStore, NodePages]]]:
    """A reader's store, and the pages beside it."""
    with ExitStack() as held:

        def begin(address: str, device: str = "cpu", **options: Any) -> tuple[RemoteStore, NodePages]:
            store = held.enter_context(RemoteStore(address, **options))
            return store, held.enter_context(NodePages(store, device))

        yield begin
