"""Looks again and again whether every tier keeps blocks and every path is open, and says so where health is asked for.

A tier is down when a block does not come back from it, whatever it thinks of itself; it is up again when one does. So
is a path: the stream while a thread of the server is free to answer a call, shared memory and the bulk port while they
answer whoever connects.
"""

import logging
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread

from cachestore.deadline import Deadline
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.bulk.server import BulkServer
from cachestore.service.health.canary import NAMESPACE, kept_below, kept_in_memory
from cachestore.service.health.servicer import NOT_SERVING, SERVING, UNKNOWN, Health
from cachestore.service.shared.client import SharedSession
from cachestore.service.shared.server import SessionServer
from cachestore.store.tiered import TieredStore

SECONDS = 2.0
"""How long one look may take; what takes longer does not serve."""

IDENTITY = Identity(NAMESPACE, NAMESPACE, Role.reader)

LOOPBACK = {"localhost": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where hosts that are no address of their own are reached on this machine."""

Look = Callable[[Deadline], bool]

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Prober:
    """Takes all `looks`, by the name that `health` has for them, every so many seconds, on one thread."""

    health: Health
    looks: dict[str, Look]
    every: float
    _down: frozenset[str] = frozenset()
    _over: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def open(self) -> None:
        """Begins to look, at once."""
        for name in self.looks:
            self.health.say(name, UNKNOWN)
        self._over.clear()
        self._thread = Thread(target=self._run, name="cachestore-health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops, when the look that is being taken is over. Closing twice is allowed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._over.set()
            thread.join(SECONDS)

    def _run(self) -> None:
        while True:
            for name, look in self.looks.items():
                if self._over.is_set():
                    return
                self.health.say(name, SERVING if self._well(name, look) else NOT_SERVING)
            if self._over.wait(self.every):
                return

    def _well(self, name: str, look: Look) -> bool:
        why: object = "it does not answer as it should"
        try:
            well = look(Deadline.after(SECONDS))
        except Exception as error:  # whatever is wrong with it: it does not serve
            well, why = False, error
        # said once, until it is otherwise
        if not well and name not in self._down:
            log.warning("%s does not serve: %s", name, why)
        elif well and name in self._down:
            log.warning("%s serves again", name)
        self._down = self._down - {name} if well else self._down | {name}
        return well


def tiers(store: TieredStore) -> dict[str, Look]:
    """A look at each tier of the store."""
    looks: dict[str, Look] = {f"tier/{store.memory.name}": partial(kept_in_memory, store)}
    return looks | {f"tier/{tier.name}": partial(kept_below, tier) for tier in store.lower}


def stream(threads: ThreadPoolExecutor) -> Look:
    """Whether one of the server's threads is free."""

    def look(deadline: Deadline) -> bool:
        asked: Future[None] = threads.submit(lambda: None)
        try:
            asked.result(deadline.remaining())
        except LateError:
            asked.cancel()
            return False
        return True

    return look


def shared(sessions: SessionServer) -> Look:
    """Whether a session begins for whoever shows a ticket."""

    def look(deadline: Deadline) -> bool:
        path, ticket = sessions.attach(IDENTITY, False)
        with closing(SharedSession(path, {}, lambda: False)) as session:
            session.open(ticket, deadline.remaining())
            return bool(session.namespace)

    return look


def bulk(host: str, server: BulkServer) -> Look:
    """Whether whoever connects to the port of bulk bytes at `host` is answered: here with the end."""
    reached = LOOPBACK.get(host, host)

    def look(deadline: Deadline) -> bool:
        with socket.socket(socket.AF_INET6 if ":" in reached else socket.AF_INET) as connection:
            connection.bind((reached, 0))
            # said before it connects, or it could be taken for a client that says nothing
            server.trial = connection.getsockname()
            try:
                connection.settimeout(deadline.remaining())
                connection.connect((reached, server.port))
                return not connection.recv(1)
            finally:
                # the next that has this port is a client
                server.trial = None

    return look
