"""Stores of every shape; after each test the numbers must add up and nothing may be left behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachestore.metrics import Figure, total
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums

SOON = 10.0

PATIENCE = {"redis": {"connect_timeout": 2.0, "timeout": 2.0}}
"""What a tier has where a test says nothing of it: a machine that is busy must not end its calls."""


def check_everything(tiered: TieredStore) -> None:
    """Asserts what must hold in a store at rest: caps, sums, and that nothing is open."""
    assert tiered.settle(SOON)
    tiered.check()
    held = 0
    for store in tiered._namespaces.values():
        figures = store.stats()
        check_sums(figures)
        check_tier(figures)
        assert [total(figures, name) for name in ("read_open", "put_open", "puts_open", "leases_open")] == [0] * 4
        held += total(figures, "tier_blocks", tier="cpu")
    entries = tiered.index.everything()
    assert len(entries) == held and all(entry.ready and not entry.users for entry in entries)
    assert tiered.promotion.idle and not tiered.moving
    if not held:
        assert tiered.memory.usage().used == 0


def check_tier(figures: list[Figure]) -> None:
    """Asserts that what came into memory is what left it or is there."""
    added, removed = total(figures, "tier_added", tier="cpu"), total(figures, "tier_removed", tier="cpu")
    assert added - removed == total(figures, "tier_blocks", tier="cpu") >= 0
    assert total(figures, "tier_bytes", tier="cpu") >= 0


@pytest.fixture
def open_tiers() -> Iterator[Callable[..., TieredStore]]:
    """Opens stores of these tiers, with `store` of these settings and this codec."""
    stores: list[TieredStore] = []

    def start(tiers: list[dict[str, Any]], store: dict[str, Any], codec: str = "raw") -> TieredStore:
        patient = [{**PATIENCE.get(tier["name"], {}), **tier} for tier in tiers]
        tiered = compose({"tiers": patient, "codecs": {"name": codec}, "store": store})
        tiered.open()
        stores.append(tiered)
        return tiered

    yield start
    try:
        for tiered in stores:
            check_everything(tiered)
    finally:
        for tiered in stores:
            tiered.close()
            tiered.close()


@pytest.fixture
def open_store(open_tiers: Callable[..., TieredStore]) -> Callable[..., TieredStore]:
    """Opens stores: of `memory` bytes, with `redis` of these settings, `store` of these."""

    def start(memory: str | int = "4MiB", redis: dict[str, Any] | str | None = None, **tables: Any) -> TieredStore:
        tiers: list[dict[str, Any]] = [{"name": "cpu", "capacity": memory, **tables.pop("cpu", {})}]
        if redis is not None:
            tiers.append({"name": "redis", **({"url": redis} if isinstance(redis, str) else redis)})
        return open_tiers(tiers, tables, tables.pop("codec", "raw"))

    return start


@pytest.fixture
def settled() -> Callable[[TieredStore], None]:
    """Asserts, in the middle of a test, what every store is checked for at its end."""
    return check_everything


@pytest.fixture(params=["raw", "lz4"])
def on_disk(
    request: pytest.FixtureRequest, tmp_path: Path, open_tiers: Callable[..., TieredStore]
) -> Callable[..., TieredStore]:
    """Opens a store with a disk tier behind its memory; every time on the same folder."""

    def start(memory: str | int = "1MiB", capacity: str | int = "4MiB", **store: Any) -> TieredStore:
        disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": capacity}
        return open_tiers([{"name": "cpu", "capacity": memory}, disk], store, request.param)

    return start
