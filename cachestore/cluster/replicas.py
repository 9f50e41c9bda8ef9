"""Copies new blocks of chosen namespaces to further nodes, in the background: those come and read them.

A put is acknowledged before that. Which nodes get a copy follows from the first block of its chain, so that a prompt
lies together there, too; one that does not answer is passed over.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Self

from cachestore.cluster.handing_over import PATIENCE, HandingOver
from cachestore.cluster.lots import placed, written_here
from cachestore.cluster.peer_settings import OTHERS
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

BACKLOG = 1 << 16
"""Blocks that may wait."""

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
    _under_way: HandingOver | None = None
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
        """Copies no more; what waits is given up, and what is under way with the node that is asked just then."""
        self.tiered.stop_telling(self)
        self._over.set()
        self._due.set()
        with self._lock:
            if self._under_way is not None:
                self._under_way.deadline = Deadline(time.monotonic())
        self._thread.join()
        self._drop(len(self._waiting), "closed")

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def announce(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        if self._others(namespace) < 1:
            return
        # what was copied here has its copies from where it was written, or had them
        names = [name for key in keys if written_here(self.tiered, name := Name(namespace, key))]
        with self._lock:
            room = names[: max(0, BACKLOG - len(self._waiting))]
            self._waiting.update(dict.fromkeys(room))
        self._drop(len(names) - len(room), "backlog")
        self._due.set()

    def withdraw(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        with self._lock:
            before = len(self._waiting)
            for key in keys:
                self._waiting.pop(Name(namespace, key), None)
            left = before - len(self._waiting)
        self._drop(left, "gone")

    def _drop(self, blocks: int, reason: str) -> None:
        if blocks:
            self.peers.counters.add("replicas_dropped", blocks, reason=reason)

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
            by_count: dict[int, list[Name]] = {}
            for name in waiting:
                by_count.setdefault(self._others(name.namespace), []).append(name)
            for others, names in by_count.items():
                self._copy(names, others)

    def _copy(self, names: Sequence[Name], others: int) -> None:
        blocks = placed(self.tiered, names)
        self._drop(len(names) - len(blocks), "gone")
        told, left = Moved(), len(blocks)
        once = PATIENCE * self.peers.settings.timeout
        over = HandingOver(self.tiered, self.peers, told, Deadline.after(ROUND_SECONDS), once, patient=False)
        with self._lock:
            self._under_way = over
        if self._over.is_set():
            over.deadline = Deadline(time.monotonic())
        try:
            for lot, missing in over.copies(blocks, others):
                left -= len(lot.blocks)
                self.peers.counters.add("replicas_missing", missing)
        except Exception:
            self._drop(left, "internal")
            log.exception("[peers] %d blocks get no further copies", left)
        finally:
            self.peers.counters.add("replicas_made", told.hot_moved)
            with self._lock:
                self._under_way = None
