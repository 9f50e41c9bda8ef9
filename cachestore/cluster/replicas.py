"""Copies new blocks of chosen namespaces to further nodes, in the background: those come and read them.

A put is acknowledged before that. Which nodes get a copy follows from the first block of its chain, so that a prompt
lies together there, too; one that does not answer is passed over.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Self

from cachestore.cluster.handing_over import HandingOver
from cachestore.cluster.lots import written_blocks
from cachestore.cluster.peers import Peers
from cachestore.deadline import Deadline
from cachestore.hashing import namespace_id
from cachestore.index import Name
from cachestore.service.operation import Moved
from cachestore.store.tiered import TieredStore

LINGER_SECONDS = 0.1
"""How long new blocks wait for others of their prompt."""

ROUND_SECONDS = 30.0
"""How long the blocks that wait together may take."""

PATIENCE = 3
"""Another node may take so many times its time-out for one read to take one lot: it reads that, and verifies it."""

BACKLOG = 1 << 16
"""Blocks that may wait."""

OTHERS = "*"
"""In `peers.replicas`: every namespace that is not named."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Replicas:
    """From `open` to `close` new blocks of `tiered` are copied as `peers.settings.replicas` says.

    Follows `store.presence.Presence`.
    """

    tiered: TieredStore
    peers: Peers
    _wanted: dict[bytes, int] = field(init=False)
    _waiting: dict[Name, None] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _due: Event = field(default_factory=Event)
    _over: Event = field(default_factory=Event)
    _thread: Thread = field(init=False)

    def __post_init__(self) -> None:
        replicas = self.peers.settings.replicas
        self._wanted = {namespace_id(name): nodes for name, nodes in replicas.items() if name != OTHERS}
        self._thread = Thread(target=self._run, name="cachestore-replicas", daemon=True)

    def open(self) -> None:
        """Begins with what is put from now on."""
        self._thread.start()
        self.tiered.tell(self)

    def close(self) -> None:
        """Copies no more; what waits is given up."""
        self.tiered.stop_telling(self)
        self._over.set()
        self._due.set()
        self._thread.join()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def announce(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        if self._others(namespace) < 1:
            return
        with self._lock:
            room = keys[: max(0, BACKLOG - len(self._waiting))]
            self._waiting.update((Name(namespace, key), None) for key in room)
        if len(room) < len(keys):
            self.peers.counters.add("replicas_dropped", len(keys) - len(room), reason="backlog")
        self._due.set()

    def withdraw(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        with self._lock:
            before = len(self._waiting)
            for key in keys:
                self._waiting.pop(Name(namespace, key), None)
            left = before - len(self._waiting)
        if left:
            self.peers.counters.add("replicas_dropped", left, reason="gone")

    def _others(self, namespace: bytes) -> int:
        """How many other nodes are to have its blocks."""
        return self._wanted.get(namespace, self.peers.settings.replicas.get(OTHERS, 1)) - 1

    def _run(self) -> None:
        while True:
            self._due.wait()
            if self._over.wait(LINGER_SECONDS):
                return
            self._due.clear()
            with self._lock:
                waiting, self._waiting = self._waiting, {}
            try:
                self._copy(waiting)
            except Exception:
                self.peers.counters.add("replicas_dropped", len(waiting), reason="internal")
                log.exception("[peers] %d blocks get no further copies", len(waiting))

    def _copy(self, names: dict[Name, None]) -> None:
        by_count: dict[int, list[Name]] = {}
        for name in names:
            by_count.setdefault(self._others(name.namespace), []).append(name)
        for others, some in by_count.items():
            told, once = Moved(), PATIENCE * self.peers.settings.timeout
            deadline = Deadline.after(ROUND_SECONDS)
            over = HandingOver(self.tiered, self.peers, told, deadline, once, patient=False)
            missing = over.copies(written_blocks(self.tiered, some), others)
            self.peers.counters.add("replicas_made", told.hot_moved)
            self.peers.counters.add("replicas_missing", missing)
