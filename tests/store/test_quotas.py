"""A namespace's quota of memory, and of what it keeps for good."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Durability, PutAnswer, Store, put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560


def keep(store: Store, keys: Chain, blocks: list[Block]) -> list[PutAnswer]:
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        put.commit()
        return list(put.answers)


@pytest.mark.parametrize("cold", [False, True])
def test_a_block_larger_than_the_quota_drives_nothing_out(open_store: Callable[..., TieredStore], cold: bool) -> None:
    tiered = open_store("1MiB", {} if cold else None, quotas={"a": 4 * BLOCK})
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    large, values = random_prompt(small_spec(block_tokens=64), 1)
    (answer,) = put_blocks(store, large.fingerprint, values)
    assert (str(answer.status), answer.tier) == (("stored", "redis") if cold else ("not_kept", ""))
    assert store.lookup(keys).ready == 3 and total(store.stats(), "evicted") == 0


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_kept_already_takes_nothing_more_of_the_quota(tmp_path: Path, sealed: bool) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tables: dict[str, Any] = {"tiers": [{"name": "cpu", "capacity": "1MiB"}, disk]}
    tables["store"] = {"durable_quota": 6 * BLOCK}
    if sealed:
        path = tmp_path / "sealing.keys"
        path.touch(mode=0o600)
        path.write_text(f"1 {'ab' * 32}\n")
        tables["sealing"] = {"key_file": str(path)}
    keys, blocks = random_prompt(SPEC, 4)
    with compose(tables) as tiered:
        keep(tiered.namespace("a"), keys, blocks)
    with compose(tables) as tiered:
        answers = keep(tiered.namespace("a"), keys, blocks)
        assert [(str(answer.status), answer.tier) for answer in answers] == [("already_exists", "disk")] * 4
