"""A trace against the policy alone: no payload and no store, so as fast as the policy is."""

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from cachestore.config import Table, build_named
from cachestore.eviction import EVICTIONS
from cachestore.eviction.base import Eviction, Order
from cachestore.replay.base import BATCH, Advance, Outcome, eviction_table
from cachestore.replay.trace import Nodes, Trace


@dataclass(frozen=True)
class Alone:
    """Replays with the settings that the configuration's `[eviction]` has for the policy. Every block has one byte."""

    tables: Table = field(default_factory=dict)

    def __call__(self, trace: Trace, policy: str, capacity: int, advance: Advance) -> Outcome:
        eviction: Eviction = build_named(EVICTIONS, eviction_table(self.tables, policy), "eviction")
        order, present, hits = eviction.start(), set[Hashable](), 0
        started = time.perf_counter()
        for first in range(0, len(trace.requests), BATCH):
            batch = trace.requests[first : first + BATCH]
            hits += _serve(batch, order, present, capacity)
            advance(sum(map(len, batch)))
        return Outcome(hits, time.perf_counter() - started)


def _serve(requests: list[Nodes], order: Order, present: set[Hashable], capacity: int) -> int:
    """The hits of these requests. Most of the time of a replay is spent here, so it holds what it looks up often."""
    touch, insert, evict, leave = order.touch, order.insert, order.evict, present.remove
    hits = 0
    for request in requests:
        found = 0
        for node in request:
            if node not in present:
                break
            found += 1
        hit, new, parent = request[:found], request[found:capacity], None
        if found:
            hits += found
            parent = hit[-1]
            touch(hit)
        lacking = len(present) + len(new) - capacity
        if lacking > 0:
            stays = frozenset(hit).__contains__
            for _ in range(lacking):
                leave(evict(stays))
        for node in new:
            insert(node, 1, parent)
            parent = node
        present.update(new)
    return hits
