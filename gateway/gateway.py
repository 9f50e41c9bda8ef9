"""What the requests of one gateway share."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from cachestore.config import build, build_named
from cachestore.engine.settings import EngineSettings
from cachestore.errors import Overloaded
from cachestore.metrics import Counters, Figure
from cachestore.placement.shares import Shares
from gateway.errors import ApiError
from gateway.generating import Generating
from gateway.keys import Keys
from gateway.prefixes import Prefixes
from gateway.routing import ROUTINGS
from gateway.served import Served
from gateway.settings import GatewaySettings
from gateway.workers import Workers

SPARE_TOKENS = 1 << 14
"""What a worker may give more than its share: a few prompts in a quiet hour are no crowd."""


@dataclass(eq=False)
class Gateway:
    """The gateway of a configuration, of which `engine` and `gateway` are sections, before the stores at `stores`.

    `linked` says that these read from each other: then what is popular is spread over them.
    `counters`: requests = requests_done + requests_failed + requests_left + those under way.
    """

    settings: GatewaySettings
    served: Served
    stores: Sequence[str]
    linked: bool = False
    counters: Counters = field(default_factory=Counters)
    started: int = field(default_factory=lambda: int(time.time()))
    under_way: int = 0
    keys: Keys = field(init=False)
    workers: Workers = field(init=False)
    prefixes: Prefixes = field(init=False)
    generating: Generating = field(init=False)

    @classmethod
    def of(cls, tables: Mapping[str, Any], stores: Sequence[str]) -> Self:
        """Reads the model's configuration and tokenizer. ConfigError or UnsupportedModel if they cannot be used."""
        settings = build(GatewaySettings, tables.get("gateway", {}), "gateway")
        served = Served.load(build(EngineSettings, tables.get("engine", {}), "engine"), settings.served_model)
        return cls(settings, served, stores, linked="directory" in tables)

    def __post_init__(self) -> None:
        spec = self.served.fingerprint
        self.keys = Keys(self.settings)
        settings = self.settings
        self.prefixes = Prefixes(spec)
        self.workers = Workers(self.stores, spec, settings.refresh, settings.rest, settings.stall, self.prefixes.forget)
        routing = build_named(ROUTINGS, settings.routing, "gateway.routing")
        self.generating = Generating(
            self.served, self.workers, self.prefixes, routing, self.counters, settings.stall,
            Shares(spare=SPARE_TOKENS) if self.linked else None,
        )  # fmt: skip

    async def open(self) -> None:
        """Reads the keys and looks for workers, which need not be there yet. ConfigError for files it cannot use."""
        self.keys.open()
        await self.workers.open()

    async def close(self) -> None:
        """Ends what it holds. Closing twice is allowed."""
        await self.workers.close()
        await asyncio.to_thread(self.prefixes.close)

    @contextmanager
    def place(self) -> Iterator[None]:
        """One request is under way inside the context; Overloaded beyond the bound."""
        most = self.settings.max_waiting
        if self.under_way >= most:
            raise Overloaded(f"{most} requests are under way here already; try again later")
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def failed(self, error: ApiError) -> None:
        """Counts a request that ended so."""
        self.counters.add("requests_failed", status=str(error.status))

    def left(self) -> None:
        """Counts a request whose client did not wait for the answer."""
        self.counters.add("requests_left")

    def figures(self) -> list[Figure]:
        """Everything it counts."""
        workers = self.workers.all()
        return [
            *self.counters.figures(),
            Figure("requests_under_way", (), self.under_way),
            Figure("workers", (), len(workers)),
            *(Figure("worker_load", (("worker", worker.member.name),), worker.load) for worker in workers),
        ]
