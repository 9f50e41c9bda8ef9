"""The store of one process keeps every promise of the interface, whatever its tiers."""

from collections.abc import Iterator

import pytest

from cachestore.store.base import Store
from cachestore.store.compose import compose
from cachestore.testing import StoreTests

MEMORY = {"name": "cpu", "capacity": "32MiB"}
REDIS = {"name": "redis", "capacity": "32MiB"}


class TestMemoryOnly(StoreTests):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with compose({"tiers": [MEMORY]}) as tiered:
            yield tiered.namespace("tests")
            tiered.check()


class TestMemoryAndRedis(StoreTests):
    @pytest.fixture(params=["through", "eviction"])
    def store(self, request: pytest.FixtureRequest) -> Iterator[Store]:
        with compose({"tiers": [MEMORY, REDIS], "store": {"write": request.param}}) as tiered:
            yield tiered.namespace("tests")
            tiered.check()
