"""Nodes of one process with one directory in it: what one has, the others read."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.peers import Peers
from cachestore.codecs import create
from cachestore.directory.memory import Board, MemoryDirectory
from cachestore.eviction.lru import Lru
from cachestore.hashing import Chain, namespace_id
from cachestore.metrics import total
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Loaded
from cachestore.store.local import LocalStore
from cachestore.store.settings import StoreSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu

NAMESPACE = namespace_id(DEFAULT_NAMESPACE)


@dataclass(eq=False)
class Linked:
    """A node, and what it has of the others."""

    tiered: TieredStore
    peers: Peers
    server: CacheStoreServer

    @property
    def store(self) -> LocalStore:
        """The store as everybody sees it."""
        return self.tiered.namespace(DEFAULT_NAMESPACE)

    def read(self, keys: Chain, timeout: float = 10.0) -> list[Loaded]:
        """What comes of these blocks."""
        with self.store.read(keys, timeout=timeout) as reading:
            return list(reading)

    def counted(self, name: str, **labels: str) -> int:
        """A figure of the store, or of its part in the cluster."""
        return int(total([*self.store.stats(), *self.peers.figures()], name, **labels))


@dataclass(eq=False)
class Nodes:
    """Starts nodes that share a directory."""

    stack: contextlib.ExitStack
    board: Board = field(default_factory=lambda: Board(clock=lambda: 0.0))

    def start(self, name: str, *, bulk_port: int = 0, **settings: Any) -> Linked:
        """A node that serves."""
        tiered = TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru(), StoreSettings(node=name))
        self.stack.enter_context(tiered)
        part = MemoryDirectory(self.board)
        peers = self.stack.enter_context(Peers(part, PeerSettings(**{"timeout": 1.0, **settings})))
        server = self.stack.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0, bulk_port=bulk_port)))
        part.join(name, server.address, tiered.present)
        tiered.tell(part)
        tiered.elsewhere = [peers]
        return Linked(tiered, peers, server)

    def says(self, name: str, address: str, *keys: bytes) -> MemoryDirectory:
        """A node at an address of the test's that says it holds these blocks."""
        part = MemoryDirectory(self.board)
        part.join(name, address, [(NAMESPACE, key) for key in keys])
        return part


@contextlib.contextmanager
def linked() -> Iterator[Nodes]:
    """Nodes that end with the context."""
    with contextlib.ExitStack() as stack:
        yield Nodes(stack)
