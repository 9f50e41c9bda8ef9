"""A store as adapters see it."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiered(request: pytest.FixtureRequest) -> Iterator[TieredStore]:
    """A store in memory; a parameter says of what capacity."""
    with compose({"tiers": [{"name": "cpu", "capacity": getattr(request, "param", "64MiB")}]}) as store:
        yield store
        store.settle()
        store.check()


@dataclass
class Served:
    """A store that engines reach by its address."""

    store: TieredStore
    server: CacheStoreServer

    @property
    def address(self) -> str:
        return self.server.address

    def stop(self) -> None:
        self.server.close()


@pytest.fixture
def served(tiered: TieredStore) -> Iterator[Served]:
    server = CacheStoreServer(tiered, ServiceSettings(port=0), "test")
    server.open()
    yield Served(tiered, server)
    server.close()
