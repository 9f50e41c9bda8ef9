"""Which server holds which name: one server, the primary that Sentinels name, or the nodes of a Redis Cluster."""

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cachestore.tiers.breaker import Breaker
from cachestore.tiers.redis_node import Node
from cachestore.tiers.redis_slots import SLOTS, slot_of
from cachestore.tiers.redis_url import Address
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_dial import Dialer
from cachestore.tiers.resp_errors import FAULTS, Broken, Refused

LOOK_AGAIN_SECONDS = 0.1
"""Calls that find an old map within this time share one look for a new one."""


class Map(Protocol):
    """Where names are. Whoever finds it wrong sets `stale`."""

    stale: bool

    @property
    def old(self) -> bool:
        """Whether to look again."""

    def look(self, until: float) -> None:
        """Finds the servers by `until`; Broken if nobody answers who knows. Thread-safe."""

    def nodes(self) -> list[Node]:
        """The servers that take writes."""

    def node_of(self, name: bytes) -> Node | None:
        """The server of this name; None if nobody has it now."""


@dataclass(eq=False)
class OneServer:
    """The server of a `redis://` or `unix://` URL, where it always is."""

    node: Node
    stale: bool = False
    old: bool = False

    def look(self, until: float) -> None:
        pass

    def nodes(self) -> list[Node]:
        return [self.node]

    def node_of(self, name: bytes) -> Node | None:
        return self.node


@dataclass(eq=False)
class _Looked(ABC):
    """Nodes that are looked up by asking any of several `guides`, and kept while they stay where they are."""

    guides: tuple[Address, ...]
    guide_dialer: Dialer
    node: Callable[[Address], Node]
    again_after: float
    """Seconds after which it is looked up again though nobody found it wrong."""
    stale: bool = True
    breaker: Breaker = field(default_factory=Breaker)
    _nodes: dict[Address, Node] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _looked: float = float("-inf")

    @property
    def old(self) -> bool:
        return self.stale or time.monotonic() - self._looked > self.again_after

    def look(self, until: float) -> None:
        # who comes while another looks goes on with the map there is
        if not self._lock.acquire(timeout=0 if self._nodes else max(0.0, until - time.monotonic())):
            return
        try:
            if self.old and time.monotonic() - self._looked >= LOOK_AGAIN_SECONDS and self.breaker.allows():
                self._look(until)
        finally:
            self._lock.release()

    def _look(self, until: float) -> None:
        self._looked = time.monotonic()
        failure = Broken("unreachable")
        for guide in self._order():
            try:
                connection = self.guide_dialer.dial(guide, until)
                try:
                    self._learn(guide, connection)
                finally:
                    connection.close()
            except Broken as broken:
                failure = broken
                continue
            except Refused as refused:
                failure = Broken(FAULTS.get(refused.code, "protocol"))
                continue
            except (ValueError, TypeError, AttributeError):
                failure = Broken("protocol")
                continue
            self.breaker.succeeded()
            self.stale = False
            return
        self.breaker.failed()
        raise failure

    def _order(self) -> Iterable[Address]:
        return random.sample(self.guides, len(self.guides))

    @abstractmethod
    def _learn(self, guide: Address, connection: Connection) -> None:
        """Takes the nodes there are from what this guide says."""

    def _keep(self, addresses: Iterable[Address]) -> None:
        known = {address: self._nodes.get(address) or self.node(address) for address in addresses}
        gone = [node for address, node in self._nodes.items() if address not in known]
        self._nodes = known
        for node in gone:
            node.close()

    def nodes(self) -> list[Node]:
        return list(self._nodes.values())


@dataclass(eq=False)
class SentinelPrimary(_Looked):
    """The primary of `service`, as Sentinels say (redis.io/docs/reference/sentinel-clients).

    What they say is taken for true when the server itself says so too, which every node is asked before it is used.
    """

    service: str = ""

    def node_of(self, name: bytes) -> Node | None:
        return next(iter(self._nodes.values()), None)

    def _learn(self, guide: Address, connection: Connection) -> None:
        answer = connection.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        if answer is None:
            raise Broken("service")
        host, port = answer
        self._keep([Address(host.decode(), int(port))])


@dataclass(eq=False)
class ClusterSlots(_Looked):
    """The primaries of a cluster, by hash slot (redis.io/docs/reference/cluster-spec)."""

    _slots: list[Address | None] = field(default_factory=list)

    def node_of(self, name: bytes) -> Node | None:
        slots = self._slots
        address = slots[slot_of(name)] if slots else None
        return None if address is None else self._nodes.get(address)

    def _order(self) -> Iterable[Address]:
        # those who were there last know best; the ones in the URL may have moved away
        return [*random.sample(list(self._nodes), len(self._nodes)), *super()._order()]

    def _learn(self, guide: Address, connection: Connection) -> None:
        answer = connection.call("CLUSTER", "SLOTS")
        slots: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in answer:
            if not 0 <= first <= last < SLOTS:
                raise Broken("protocol")
            # a node that does not know its own name yet is where it was asked
            address = Address(host.decode() if host else guide.host, int(port))
            slots[first : last + 1] = [address] * (last + 1 - first)
        if not any(slots):
            raise Broken("moved")
        self._keep(dict.fromkeys(filter(None, slots)))
        self._slots = slots
