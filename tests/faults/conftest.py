"""Stores of four tiers, called directly or over gRPC, with copies that can be broken from outside."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.block import Block
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Store, put_blocks
from cachestore.store.compose import compose
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, random_prompt, small_spec
from tests.faults.wire import TRANSPORTS, Wire, wire

SPEC = small_spec()
BLOCK = 2560


@dataclass
class Node:
    """One node: its store as its clients see it (`store`) and as it is (`tiered`, `local`)."""

    tiered: TieredStore
    store: Store
    folder: Path
    server: Any

    @property
    def local(self) -> LocalStore:
        """The namespace that `store` calls, without gRPC between."""
        return self.tiered.namespace(DEFAULT_NAMESPACE)

    def stored(self, count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
        """Blocks that every cold tier has."""
        keys, blocks = random_prompt(SPEC, count, seed)
        assert {answer.status for answer in put_blocks(self.store, keys.fingerprint, blocks)} == {"stored"}
        assert self.tiered.settle()
        return keys, blocks

    def only_in(self, tier: str, keys: Chain) -> None:
        """Leaves the copies in this tier alone."""
        if tier == "gpu":
            self.read(keys)
            assert self.tiered.settle()
        for other in ("cpu", *(lower.name for lower in self.tiered.lower)):
            if other != tier:
                self.store.clear(other)
        assert [(run.blocks, run.tier) for run in self.store.lookup(keys).runs] == [(len(keys), tier)]

    def read(self, keys: Chain, **options: Any) -> list[Block]:
        """The blocks that a read gives."""
        with self.store.read(keys, **options) as reading:
            return [block for block, _ in reading]

    def value(self, tier: str, key: bytes) -> bytes:
        """What a medium holds under this key."""
        if tier == "redis":
            with self.server.client() as client:
                value: bytes = client.get(self._name(key))
                return value
        return self._file(key).read_bytes() if tier == "disk" else self._memory(tier, key).tobytes()

    def replace(self, tier: str, key: bytes, value: bytes) -> None:
        """Puts something else there, behind the store's back."""
        if tier == "redis":
            with self.server.client() as client:
                client.set(self._name(key), value, ex=100)
        elif tier == "disk":
            self._file(key).write_bytes(value)
        else:
            self._memory(tier, key)[: len(value)] = np.frombuffer(value, dtype=np.uint8)

    def _name(self, key: bytes) -> str:
        return f"cachestore:block:{self.local.namespace.hex()}:{key.hex()}"

    def _file(self, key: bytes) -> Path:
        return self.folder / self.local.namespace.hex() / key.hex()[:2] / key.hex()

    def _memory(self, tier: str, key: bytes) -> Any:
        if tier == "gpu":
            hot: Any = self.tiered.hot[0]
            return hot._work.blocks.find(self.local.namespace, key).slot.tensor.numpy()
        entry = self.tiered.index.get(Name(self.local.namespace, key))
        assert entry is not None
        return entry.slot.bytes


@pytest.fixture(params=sorted(TRANSPORTS))
def transports(request: pytest.FixtureRequest) -> Sequence[str]:
    """How payload travels."""
    return TRANSPORTS[str(request.param)]


@pytest.fixture
def wired(transports: Sequence[str]) -> Iterator[Wire]:
    """A served store with the fault proxy before it."""
    with wire(transports) as made:
        yield made


@pytest.fixture(params=["direct", "grpc"])
def open_node(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: Callable[..., Any]
) -> Iterator[Callable[..., Node]]:
    """Opens nodes over one folder and one Redis server; at the end their figures must add up."""
    server = redis_server()
    opened: list[Node] = []
    with ExitStack() as stack:

        def start(memory: str | int = "4MiB", tiers: str = "gpu disk redis", disk: str = "16MiB", **store: Any) -> Node:
            tables: dict[str, dict[str, Any]] = {
                "cpu": {"capacity": memory},
                "gpu": {"device": "cpu", "capacity": "4MiB"},
                "disk": {"path": str(tmp_path / "blocks"), "capacity": disk},
                "redis": {"url": server.url},
            }
            chosen = [{"name": name, **tables[name]} for name in ("cpu", *tiers.split())]
            composed = compose({"tiers": chosen, "codecs": {"name": "raw"}, "store": {"hot_after": 1, **store}})
            tiered = stack.enter_context(composed)
            view: Store = tiered.namespace(DEFAULT_NAMESPACE)
            if request.param == "grpc":
                served = stack.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0), "test"))
                view = stack.enter_context(RemoteStore(served.address))
            opened.append(Node(tiered, view, tmp_path / "blocks", server))
            return opened[-1]

        yield start
        for node in opened:
            figures = node.local.stats()
            check_sums(figures)
            assert [total(figures, name) for name in ("read_open", "put_open", "leases_open", "puts_open")] == [0] * 4
            node.tiered.check()
