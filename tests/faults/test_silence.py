"""N4: whoever is at the other end and says nothing, or stops saying it, holds no call past its deadline."""

import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from cachestore.cli.health import statuses
from cachestore.errors import CacheStoreError
from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.service.events.mirror import Mirror
from cachestore.service.members import Member
from cachestore.service.transports import ALL
from cachestore.store.base import Lease
from tests.faults.calls import LATE, outcome, putting, reading
from tests.faults.injections import BOTH, DOWN, UP, Direction, Stall
from tests.faults.proxy import Proxy
from tests.faults.values import prompt
from tests.faults.wire import LARGE, SMALL, Wire, wire

TIMEOUT = 0.6
KEYS, BLOCKS = prompt(SMALL, 2)
LONG, VALUES = prompt(LARGE, 3)
MEMBER = Member("store", "n", "h:1", "n", b"i")
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"

CALLS: dict[str, Callable[[RemoteStore], object]] = {
    "lookup": lambda store: store.lookup(KEYS, timeout=TIMEOUT),
    "lease": lambda store: store.lease(KEYS, timeout=TIMEOUT),
    "renew": lambda store: store.renew(b"id", 1.0, timeout=TIMEOUT),
    "release": lambda store: store.release(Lease(b"id", 1, 1.0), timeout=TIMEOUT),
    "read": lambda store: reading(store, KEYS, TIMEOUT),
    "read and wait": lambda store: reading(store, KEYS, TIMEOUT, wait=5.0),
    "provisional": lambda store: reading(store, KEYS, TIMEOUT, wait=5.0, provisional=True),
    "put": lambda store: putting(store, KEYS, BLOCKS, TIMEOUT),
    "abort": lambda store: store.abort(b"id", timeout=TIMEOUT),
    "pin": lambda store: store.pin(KEYS, 1.0, timeout=TIMEOUT),
    "unpin": lambda store: store.unpin(KEYS, timeout=TIMEOUT),
    "pins": lambda store: store.pins(timeout=TIMEOUT),
    "delete": lambda store: store.delete(KEYS, timeout=TIMEOUT),
    "clear": lambda store: store.clear(timeout=TIMEOUT),
    "stats": lambda store: store.stats(timeout=TIMEOUT),
    "members": lambda store: store.members(timeout=TIMEOUT),
    "register": lambda store: store.register(MEMBER, 1.0, timeout=TIMEOUT),
}
"""Every call of a client."""


def all_end(store: RemoteStore, calls: dict[str, Callable[[RemoteStore], object]] = CALLS) -> dict[str, object]:
    """What becomes of all of these at once, each of which ends in time."""
    with ThreadPoolExecutor(len(calls)) as threads:
        ended = {name: threads.submit(outcome, lambda call=call: call(store), TIMEOUT) for name, call in calls.items()}
        return {name: one.result() for name, one in ended.items()}


@contextmanager
def silent(listener: socket.socket, said: bytes | None) -> Iterator[None]:
    """A peer that says this to whoever connects, and nothing more; with None it does not even accept."""
    over, connections = threading.Event(), list[socket.socket]()

    def accept() -> None:
        while not over.is_set():
            try:
                connections.append(listener.accept()[0])
            except TimeoutError:
                continue
            connections[-1].sendall(said or b"")

    listener.settimeout(0.05)
    thread = threading.Thread(target=accept)
    if said is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if said is not None:
            thread.join()
        for connection in connections:
            connection.close()


PEERS = {"never accepts": None, "says nothing": b"", "half a frame": SETTINGS[:4], "a greeting": SETTINGS}


@pytest.mark.parametrize(
    "name",
    [
        "never accepts",
        "a greeting",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("says nothing", "half a frame")),
    ],
)
def test_n4_a_peer_that_says_nothing_holds_no_call(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, silent(listener, PEERS[name]):
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with RemoteStore(address, transports=ALL) as store:
            for call, result in all_end(store).items():
                # a provisional read whose time is over before it began has found nothing
                assert isinstance(result, CacheStoreError) or (call == "provisional" and result == 0), (call, result)
        asked = outcome(lambda: statuses(address, TIMEOUT, every=True), TIMEOUT)
        assert isinstance(asked, CacheStoreError)
        with Mirror(Connection(address)) as mirror:
            assert outcome(lambda: mirror.settle(TIMEOUT), TIMEOUT) is False and not mirror.fresh
            begun = time.monotonic()
        assert time.monotonic() - begun < LATE


@pytest.mark.parametrize(
    ("direction", "at"),
    [
        (DOWN, 20),
        pytest.param(BOTH, 0, marks=pytest.mark.slow),
        pytest.param(UP, 0, marks=pytest.mark.slow),
        pytest.param(UP, 20, marks=pytest.mark.slow),
        pytest.param(DOWN, 0, marks=pytest.mark.slow),
    ],
)
def test_n4_a_store_that_stops_amid_its_answers_holds_no_call(direction: Direction, at: int) -> None:
    with wire(ALL) as wired, wired.client() as store:
        assert store.lookup(KEYS).ready == 0
        with wired.proxy.inject(Stall(direction, at)):
            all_end(store)
            outcome(lambda: statuses(wired.proxy.address, TIMEOUT, every=True), TIMEOUT)
        wired.direct.delete(KEYS)


@contextmanager
def behind(wired: Wire, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the bulk port."""
    with Proxy(f"127.0.0.1:{wired.server.bulk.port}") as proxy:
        monkeypatch.setattr(wired.server.bulk, "port", int(proxy.address.rpartition(":")[2]))
        yield proxy


@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("at", [0, pytest.param(30, marks=pytest.mark.slow), 3 << 20])
@pytest.mark.parametrize("transports", [pytest.param(("bulk",), marks=pytest.mark.slow), ("bulk", "stream")])
def test_n4_a_bulk_port_that_stops_holds_no_call(
    monkeypatch: pytest.MonkeyPatch, direction: Direction, at: int, transports: tuple[str, ...]
) -> None:
    with wire(transports) as wired:
        put = putting(wired.direct, LONG, VALUES)
        assert put == ["stored"] * 3
        with behind(wired, monkeypatch) as proxy, RemoteStore(wired.server.address, transports=transports) as store:
            others, theirs = prompt(LARGE, 3, 2)
            # the other way a read says little, and a put hears little
            acts = at < 40 or (direction is DOWN)
            injection = Stall(direction, at)
            proxy.begin(injection)
            assert isinstance(reading(store, LONG, TIMEOUT), int)
            proxy.end(injection)
            assert bool(injection.acted) is acts
            injection = Stall(direction, at)
            proxy.begin(injection)
            putting(store, others, theirs, TIMEOUT)
            proxy.end(injection)
            assert injection.acted or at > 40


HALF = {"never accepts": None, "says nothing": b"", "half a message": b"\xff\0\0\0half"}


@pytest.mark.parametrize(
    "name", ["never accepts", pytest.param("says nothing", marks=pytest.mark.slow), "half a message"]
)
@pytest.mark.parametrize("transports", [pytest.param(("shared",), marks=pytest.mark.slow), ALL])
def test_n4_a_session_that_says_nothing_holds_no_call(
    monkeypatch: pytest.MonkeyPatch, name: str, transports: tuple[str, ...]
) -> None:
    with ExitStack() as stack:
        wired = stack.enter_context(wire(transports))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{folder}/session")
        listener.listen(64)
        stack.enter_context(silent(listener, HALF[name]))

        def attach(*_: Any) -> tuple[str, bytes]:
            return f"{folder}/session", bytes(32)

        monkeypatch.setattr(wired.server.sessions, "attach", attach)
        calls = {name: CALLS[name] for name in ("lookup", "read", "read and wait", "provisional", "put")}
        ended = all_end(stack.enter_context(wired.client()), calls)
        assert set(ended) == set(calls)
        # where it took all the time there was, the next one goes another way
        if transports == ALL:
            with wired.client() as store:
                outcome(lambda: store.lookup(KEYS, timeout=TIMEOUT), TIMEOUT)
                assert isinstance(reading(store, KEYS, 5.0), int)
        wired.direct.delete(KEYS)
