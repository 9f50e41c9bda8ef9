"""What a tier asks its servers, each for the names that it holds."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cachestore.deadline import Deadline
from cachestore.tiers import redis_blocks
from cachestore.tiers.base import Found
from cachestore.tiers.redis_map import Map
from cachestore.tiers.redis_node import Node, Unfit
from cachestore.tiers.resp_errors import Broken
from cachestore.tiers.spare import Memory

T = TypeVar("T")

SECONDS_PER_NAME = 50e-6
"""What a short question may take longer for each name in it."""


@dataclass(eq=False)
class Servers:
    """The servers of `map`; none before it is known and once they are closed. A short question takes `timeout`."""

    timeout: float
    map: Map | None = None

    @property
    def healthy(self) -> bool:
        """Whether they are known, and not all of them are given up."""
        return self.map is not None and not all(node.breaker.open for node in self.map.nodes())

    def close(self) -> None:
        """Ends all connections. Closing twice is allowed."""
        found, self.map = self.map, None
        for node in found.nodes() if found is not None else ():
            node.close()

    def each(
        self, names: Sequence[bytes], until: float, otherwise: T, call: Callable[..., Sequence[T]], *rest: Any
    ) -> list[T]:
        """What `call` says of each name on the server that holds it; `otherwise` where that cannot be asked."""
        found = [otherwise] * len(names)
        for node, indices in self.where(names, Deadline(until)).items():
            answers = self.on(node, until, call, [names[index] for index in indices], *rest)
            for index, answer in zip(indices, answers or (), strict=False):
                found[index] = answer
        return found

    def values(
        self, names: Sequence[bytes], deadline: Deadline, memory: Memory, largest: int
    ) -> tuple[list[Found], bool]:
        """The values of these names, of `largest` bytes at most, and whether all of them could be asked for."""
        found: list[Found] = [None] * len(names)
        all_asked = True
        for node, indices in self.where(names, deadline).items():
            chosen = [names[index] for index in indices]
            values: list[Found] = []
            read: int | None = 0
            # a value that is not worth reading takes its connection with it; another one goes on behind it
            while read is not None and read < len(chosen):
                read = self.on(node, deadline.at, redis_blocks.read, chosen, values, memory, largest)
            all_asked &= len(values) == len(chosen)
            for index, value in zip(indices, values, strict=False):
                found[index] = value
        return found, all_asked

    def on(self, node: Node, until: float, call: Callable[..., T], *rest: Any) -> T | None:
        """What `call` says over a connection to this server; None if it cannot be asked by `until`."""
        try:
            with node.connection(until) as connection:
                answer = call(connection, *rest)
                stale = connection.strayed
        except (Unfit, Broken):
            answer, stale = None, True
        if stale and self.map is not None:
            self.map.stale = True
        return answer

    def where(self, names: Sequence[bytes], deadline: Deadline) -> dict[Node, list[int]]:
        """The indices of the names by the server that holds them."""
        found: dict[Node, list[int]] = {}
        nodes = self.nodes(deadline)
        held = self.map
        if held is None or not nodes:
            return found
        if len(nodes) == 1:
            return {nodes[0]: list(range(len(names)))}
        for index, name in enumerate(names):
            node = held.node_of(name)
            if node is not None:
                found.setdefault(node, []).append(index)
        return found

    def nodes(self, deadline: Deadline) -> list[Node]:
        """The servers, looked up again if they may have moved; none once the deadline is over."""
        found = self.map
        if found is None or not deadline.remaining():
            return []
        if found.old:
            with contextlib.suppress(Broken):
                found.look(self.soon(0, deadline))
        return found.nodes()

    def soon(self, names: int, deadline: Deadline) -> float:
        """When a short question about so many names must be answered."""
        return min(deadline.at, time.monotonic() + self.timeout + names * SECONDS_PER_NAME)
