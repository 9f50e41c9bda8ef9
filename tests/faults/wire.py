"""A served store with the fault proxy before it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cachestore.block import BlockSpec, Slot
from cachestore.codecs import create
from cachestore.eviction.lru import Lru
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.settings import StoreSettings
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums
from cachestore.tiers.cpu import Cpu
from tests.faults.proxy import Proxy

TRANSPORTS: dict[str, Sequence[str]] = {"stream": ("stream",)}
"""Every way that payload travels, and what it falls back to."""

SMALL = BlockSpec("test/small", "0" * 40, "float32", (Slot(2, 16, 16), Slot(2, 16, 16)), head_groups=2, block_tokens=16)
"""Eight planes of 1 KiB."""

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""

LEASE = 1.0


@dataclass
class Wire:
    """`store` reaches the server through `proxy`, `direct` without it."""

    tiered: TieredStore
    server: CacheStoreServer
    proxy: Proxy
    store: RemoteStore
    direct: RemoteStore
    transports: Sequence[str]

    def client(self) -> RemoteStore:
        """One more client behind the proxy, not open yet."""
        return RemoteStore(self.proxy.address, transports=self.transports)

    def at_rest(self, within: float = 10.0) -> None:
        """Waits until nothing is held for anybody: no call, no bytes, no put, no lease."""
        until = time.monotonic() + within
        while (held := self.held()) != dict.fromkeys(held, 0):
            assert time.monotonic() < until, held
            time.sleep(0.01)
        figures = self.tiered.namespace("default").stats()
        check_sums(figures)
        self.tiered.check()

    def held(self) -> dict[str, int]:
        """What is held now."""
        figures = self.tiered.namespace("default").stats()
        names = ("puts_open", "put_open", "leases_open", "read_open")
        counts = {name: total(figures, name) for name in names}
        return {**counts, "calls": self.server.calls.used, "bytes": self.server.bytes_in_flight.used}


@contextmanager
def wire(transports: Sequence[str], **settings: Any) -> Iterator[Wire]:
    """Serves a store of 64 MiB under these settings; in the end nothing may be held."""
    with ExitStack() as stack:
        memory = Cpu(64 << 20).start()
        store = TieredStore(memory, (), create("raw"), Lru(), settings=StoreSettings(lease=LEASE))
        tiered = stack.enter_context(store)
        server = stack.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0, **settings), "test"))
        proxy = stack.enter_context(Proxy(server.address))
        behind = stack.enter_context(RemoteStore(proxy.address, transports=transports))
        direct = stack.enter_context(RemoteStore(server.address, transports=transports))
        made = Wire(tiered, server, proxy, behind, direct, transports)
        yield made
        made.at_rest()
