"""Sessions of shared memory from the outside: how a test begins one, and what it asks of it."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cachestore.block import BlockSpec, Slot
from cachestore.hashing import Chain
from cachestore.plane_table import TABLE
from cachestore.service import convert, convert_put
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.convert_put import Reservation
from cachestore.service.server import CacheStoreServer
from cachestore.service.shared.client import SharedSession
from cachestore.service.shared.messages import receive, send
from cachestore.store.adopting import Front
from cachestore.store.base import Durability, PutStatus
from cachestore.store.laying import Laying, Layout
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of
from cachestore.wire import session_pb2, store_pb2

WRITER = Identity("w", "default", Role.writer)
SOON = 10.0

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""

SHARED = ("shared",)
"""No other way: what cannot be had in the store's memory is not had."""


def holds(condition: Callable[[], bool]) -> None:
    """Waits until it does."""
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


Attach = Callable[..., SharedSession]


def probed(server: CacheStoreServer) -> None:
    """Waits until health has looked at everything once: it begins a session for that, and takes memory for a moment."""
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check

        def serves() -> bool:
            with suppress(grpc.RpcError):
                return bool(check(health_pb2.HealthCheckRequest(service="path/bulk"), timeout=SOON).status == 1)
            return False

        # the last that it looks at
        holds(serves)


def connected(server: CacheStoreServer) -> socket.socket:
    """A connection that has shown nothing yet."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server.sessions.attach(WRITER, True)[0])
    return connection


def greeted(server: CacheStoreServer, identity: Identity = WRITER) -> socket.socket:
    """A connection on which the session has begun."""
    path, ticket = server.sessions.attach(identity, True)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    send(connection, session_pb2.SessionRequest(hello=session_pb2.Hello(ticket=ticket)).SerializeToString())
    assert receive(connection, SOON)
    return connection


def reserve(session: SharedSession, keys: Chain, blocks: Any, timeout: float = SOON) -> session_pb2.SessionAnswer:
    """Reserves these blocks."""
    reservation = Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None)
    request = session_pb2.SessionRequest(reserve=convert_put.reserve_message(reservation))
    return session.ask(request, timeout)


def commit(session: SharedSession, put: bytes, *blocks: int) -> list[PutStatus]:
    """Commits these blocks of a put; what became of them."""
    message = session_pb2.SharedCommit(put=put, blocks=blocks)
    answer = session.ask(session_pb2.SessionRequest(commit=message), SOON)
    return [one.status for one in convert_put.answers(answer.write.answers)]


def lookup(session: SharedSession, keys: Chain) -> int:
    """How long the prefix is that this session sees."""
    request = store_pb2.LookupRequest(chain=convert.chain_message(keys))
    return session.ask(session_pb2.SessionRequest(lookup=request), SOON).lookup.ready


def read(session: SharedSession, keys: Chain) -> session_pb2.SessionAnswer:
    """Reads and keeps the lease."""
    request = store_pb2.ReadRequest(chain=convert.chain_message(keys))
    return session.ask(session_pb2.SessionRequest(read=request), SOON)


def used(tiered: TieredStore) -> int:
    """Bytes given out in slots."""
    with tiered.index.changed:
        return tiered.memory.usage().used


def rows(answer: session_pb2.SessionAnswer, session: SharedSession, blocks: Any) -> np.ndarray[Any, Any]:
    """A sound plane table at the front of the first slot, of planes that are zero."""
    slot = session.places(answer.places)[0].bytes
    layout = Layout(blocks[0].planes)
    laying = Laying(layout, lambda: slot[layout.start :])
    flat = np.concatenate(blocks[0].data)
    laying.append_run(layout.run(0, 0, flat), flat)
    Front(slot, layout.start).laid(range(len(layout.planes)), laying.table(), 1)
    return slot[: len(layout.planes) * TABLE.itemsize].view(TABLE)
