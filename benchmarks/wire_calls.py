"""The rows of `wire.py` about calls that move no blocks."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from report import Report
from store_memory import MIB, Clock, Prompt, spec_of
from wire_sides import served

from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.service.mirror import Mirror

if TYPE_CHECKING:
    from wire import Options

KEYS = 1000


def measure_lookups(report: Report, options: Options) -> None:
    """Rows `wire.lookup_ms`, a thousand present keys in one call, and `wire.mirror_ms`, the same by the mirror."""
    prompt, clock = Prompt.random(spec_of(512, block_tokens=4), KEYS), Clock()
    with ExitStack() as stack:
        node = stack.enter_context(served(128 * MIB))
        store = stack.enter_context(RemoteStore(node.address))
        connection = Connection(node.address)
        connection.open()
        stack.callback(connection.close)
        mirror = stack.enter_context(Mirror(connection))
        prompt.put(store)
        while len(mirror) < KEYS:
            time.sleep(0.01)
        for _ in range(20 if options.quick else 500):
            clock.time("lookup", lambda: store.lookup(prompt.keys))
            clock.time("mirror", lambda: mirror.lookup(prompt.keys))
        assert store.lookup(prompt.keys).ready == mirror.lookup(prompt.keys).ready == KEYS
    report.add("wire.lookup_ms", 1e3 * clock.median("lookup"), "ms", "lower", bar=1.5, reach=0.7)
    report.add("wire.mirror_ms", 1e3 * clock.median("mirror"), "ms", "lower", bar=0.4, reach=0.15)


def measure_first_plane(report: Report, options: Options) -> None:
    """Row `wire.first_plane_ms`: from a plane's write until a waiting reader in another process has it."""
    report.skip("wire.first_plane_ms", "no provisional reads")
