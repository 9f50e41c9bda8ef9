"""Who may call what: every method of every server, against every kind of caller."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from cachestore.errors import LeaseExpired, PermissionDenied
from cachestore.hashing import Chain, namespace_id
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.auth.methods import HEALTH, LEAST_ROLE, OF_PEERS, WITHOUT_NAMESPACE
from cachestore.service.auth.tokens import new_token
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import PutStatus, put_blocks
from cachestore.testing import random_prompt, small_spec
from cachestore.wire import worker_pb2, worker_pb2_grpc
from prefill_worker.serving import Serving

Serve = Callable[..., CacheStoreServer]

WHO = {Role.reader: "reader", Role.writer: "alice", Role.delegate: "worker", Role.admin: "admin"}
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def worker(kind: str, settings: ServiceSettings) -> Serving:
    """A worker's server; what it would answer does not matter here."""
    servicer = getattr(worker_pb2_grpc, f"{kind}Servicer")()
    add = getattr(worker_pb2_grpc, f"add_{kind}Servicer_to_server")
    name = worker_pb2.DESCRIPTOR.services_by_name[kind].full_name
    return Serving(settings, "worker", name, lambda server: add(servicer, server))


@pytest.fixture
def servers(serve: Serve, people: Any) -> Iterator[list[str]]:
    """The addresses of one server of each kind there is."""
    settings = ServiceSettings(port=0, **people.settings)
    workers = [worker(kind, settings) for kind in ("PrefillWorker", "DecodeWorker")]
    for one in workers:
        one.open()
    yield [serve(**people.settings).address, *(one.address for one in workers)]
    for one in workers:
        one.close(0)


def methods(address: str, credentials: Credentials) -> dict[str, Any]:
    """Every method of every service of a server, as it describes itself."""
    with grpc.insecure_channel(address) as plain:
        shown = grpc.intercept_channel(plain, Showing(credentials.metadata(address)))
        described = ProtoReflectionDescriptorDatabase(shown)
        found = {}
        for service in described.get_services():
            file = described.FindFileContainingSymbol(service)
            for one in file.service:
                if f"{file.package}.{one.name}" == service:
                    found |= {f"/{service}/{method.name}": method for method in one.method}
        return found


class Showing(grpc.StreamStreamClientInterceptor):
    """Sends metadata with reflection's calls."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)


def outcome(channel: grpc.Channel, path: str, method: Any, metadata: Any, request: bytes = b"") -> grpc.StatusCode:
    """How a call of this method ends, or begins: with an answer it is OK."""
    shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    made = getattr(channel, shape)(path)
    call = made(iter([request]) if method.client_streaming else request, timeout=10, metadata=metadata) \
        if method.server_streaming else None  # fmt: skip
    try:
        if call is None:
            made(request, timeout=10, metadata=metadata)
        else:
            next(call)
            call.cancel()
    except grpc.RpcError as error:
        return error.code()
    except StopIteration:
        pass
    return grpc.StatusCode.OK


def test_every_method_refuses_the_anonymous_and_the_wrong_role(servers: list[str], people: Any) -> None:
    """B10: enumerated by reflection, so that no method can be added and forgotten."""
    seen = set()
    foreign = Credentials(token=people.tokens["worker"], tenant=people.sign("a", audience="elsewhere"))
    for address in servers:
        found = methods(address, people.credentials("admin"))
        seen |= set(found)
        with grpc.insecure_channel(address) as channel:
            for path, method in found.items():
                # a named service: the bare question for health is the exception below
                request = health_pb2.HealthCheckRequest(service="x").SerializeToString() if path == HEALTH else b""

                def code(
                    credentials: Credentials, path: str = path, method: Any = method, data: bytes = request
                ) -> Any:
                    return outcome(channel, path, method, credentials.metadata(address), data)  # noqa: B023

                unknown = grpc.StatusCode.UNAUTHENTICATED
                assert code(Credentials()) is unknown, path
                assert code(Credentials(token=new_token())) is unknown, path
                assert code(foreign) is unknown, path
                # without a tenant a delegate touches nobody's blocks
                alone = code(people.credentials("worker")) is not grpc.StatusCode.PERMISSION_DENIED
                assert alone is (path in WITHOUT_NAMESPACE and LEAST_ROLE[path] <= Role.delegate), path
                # another node names a namespace with each call, and reads, removes and takes over, nothing else
                another = code(people.credentials("peer").for_namespace(namespace_id("a")))
                assert (another is not grpc.StatusCode.PERMISSION_DENIED) is (path in OF_PEERS), (path, another)
                assert path not in OF_PEERS or another not in REFUSED, (path, another)
                for role, name in WHO.items():
                    got = code(
                        people.credentials(name, tenant="a" if role is Role.delegate and "Store/" in path else "")
                    )
                    if role is Role.delegate and "CacheStore/" in path:
                        # with a tenant's token a delegate is the tenant
                        allowed = LEAST_ROLE[path] <= Role.writer
                    else:
                        allowed = role >= LEAST_ROLE[path]
                    assert (got is not grpc.StatusCode.PERMISSION_DENIED) is allowed, (path, role, got)
                    assert not allowed or got not in REFUSED, (path, role, got)
    assert seen == set(LEAST_ROLE), "the table and the servers name different methods"


def test_what_health_tells_anybody(servers: list[str]) -> None:
    for address in servers:
        with grpc.insecure_channel(address) as channel:
            check = channel.unary_unary(HEALTH)
            answer = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=5))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as refused:
                check(health_pb2.HealthCheckRequest(service="cachestore.v1.CacheStore").SerializeToString(), timeout=5)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_method_nobody_thought_of_is_refused_to_all(
    serve: Serve, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LEAST_ROLE, "/cachestore.v1.CacheStore/Stats")
    with (
        RemoteStore(serve(**people.settings).address, credentials=people.credentials("admin")) as admin,
        pytest.raises(PermissionDenied, match="no role is set for it"),
    ):
        admin.stats()


def test_a_role_does_not_do_more_than_it_may(serve: Serve, people: Any) -> None:
    address = serve(**people.settings).address
    keys, blocks = random_prompt(small_spec(), 1)
    with (
        RemoteStore(address, credentials=people.credentials("alice")) as alice,
        RemoteStore(address, credentials=people.credentials("reader")) as reader,
        RemoteStore(address, credentials=people.credentials("admin")) as admin,
    ):
        with pytest.raises(PermissionDenied, match="writer"):
            put_blocks(reader, keys.fingerprint, blocks)
        put_blocks(alice, keys.fingerprint, blocks)
        assert reader.lookup(keys).ready == 1
        with reader.read(keys) as reading:
            assert len(list(reading)) == 1
        with pytest.raises(PermissionDenied, match="Delete"):
            reader.delete(keys)
        with pytest.raises(PermissionDenied, match="admin"):
            alice.clear()
        assert admin.clear() == 1


def test_what_is_anothers_is_a_plain_miss(serve: Serve, people: Any) -> None:
    """A key, a lease or a put of another namespace gets the answer that one which never was gets."""
    address = serve(**people.settings).address
    keys, blocks = random_prompt(small_spec(), 2)
    never, _ = random_prompt(small_spec(), 2)
    with (
        RemoteStore(address, credentials=people.credentials("alice")) as alice,
        RemoteStore(address, credentials=people.credentials("bob")) as bob,
    ):
        put_blocks(alice, keys.fingerprint, blocks)
        lease = alice.lease(keys)
        assert alice.lookup(keys).ready == 2
        assert bob.lookup(keys) == bob.lookup(never)
        for asked in (keys, never):
            with bob.read(asked) as reading:
                assert list(reading) == []
        assert bob.delete(keys) == bob.delete(never) == 0
        for unknown in (lease.id, b"?" * 16):
            with pytest.raises(LeaseExpired) as refused:
                bob.renew(unknown, 5.0)
            assert lease.id.hex() not in str(refused.value)
        assert bob.pins() == [] and alice.pin(keys, 60.0) == 2 and bob.pins() == []
        # the same key is another block there
        put_blocks(bob, keys.fingerprint, blocks[:1])
        assert bob.lookup(keys).ready == 1 and alice.lookup(keys).ready == 2
        alice.release(lease)


def test_roles_contain_each_other() -> None:
    assert Role.reader < Role.writer < Role.delegate < Role.admin
    assert Identity("n", "", Role.delegate).namespace == ""


def test_puts_under_a_tenants_token_are_the_tenants(serve: Serve, people: Any) -> None:
    address = serve(**people.settings).address
    keys, blocks = random_prompt(small_spec(), 1)
    chain = Chain(keys.fingerprint, keys.keys)
    with (
        RemoteStore(address, credentials=people.credentials("worker", tenant="b")) as worker,
        RemoteStore(address, credentials=people.credentials("alice")) as alice,
        RemoteStore(address, credentials=people.credentials("bob")) as bob,
    ):
        (answer,) = put_blocks(worker, keys.fingerprint, blocks)
        assert answer.status is PutStatus.STORED
        assert bob.lookup(chain).ready == 1 and alice.lookup(chain).ready == 0
