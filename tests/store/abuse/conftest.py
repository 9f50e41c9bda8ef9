"""A store of four tiers, which works as before when a test is over: the next good call succeeds, nothing is held."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachestore.store.base import put_blocks
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, same
from tests.store.abuse.values import SPEC, read

BLOCK = 2560


@pytest.fixture
def tiered(open_tiers: Callable[..., TieredStore], tmp_path: Path, redis_server: Callable[..., Any]) -> TieredStore:
    """A store of four tiers, small above and larger below."""
    tiers: list[dict[str, Any]] = [
        {"name": "cpu", "capacity": 12 * BLOCK},
        {"name": "gpu", "device": "cpu", "capacity": "2MiB"},
        {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "1MiB"},
        {"name": "redis", "url": redis_server().url, "timeout": 5.0},
    ]
    return open_tiers(tiers, {"hot_after": 1})


@pytest.fixture
def store(tiered: TieredStore) -> Iterator[LocalStore]:
    """One namespace of it, which works as before when a test is over."""
    view = tiered.namespace("a")
    yield view
    keys, blocks = random_prompt(SPEC, 2, 12345)
    put_blocks(view, keys.fingerprint, blocks)
    assert all(map(same, read(view, keys), blocks)) and len(read(view, keys)) == 2
