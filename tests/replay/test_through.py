"""A whole store: it hits what the policy alone hits, by tier, and every block comes back as it was put."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.errors import ConfigError
from cachestore.replay.alone import Alone
from cachestore.replay.base import Outcome
from cachestore.replay.payload import SPEC, Payloads
from cachestore.replay.through import DEFAULT_TABLES, Through
from cachestore.replay.trace import Trace
from cachestore.replay.yardsticks import infinite

MEMORY = {"tiers": [{"name": "cpu", "capacity": "64MiB"}], "codecs": {"name": "raw"}}


def ignored(blocks: int) -> None:
    pass


def replayed(tables: dict[str, Any], trace: Trace, capacity: int, block_bytes: int = 1024) -> Outcome:
    outcome = Through(tables, block_bytes)(trace, "lru", capacity, ignored)
    assert outcome.wrong == 0 and outcome.sums_hold and outcome.hits == sum(outcome.tiers.values())
    return outcome


@pytest.mark.parametrize("capacity", [40, 150, 10**12])
@pytest.mark.parametrize("block_bytes", [8, 1024, 5000])
def test_memory_alone_hits_what_the_policy_hits(conversations: Trace, capacity: int, block_bytes: int) -> None:
    """To the block: the first tier holds exactly as many blocks as were asked for, whatever their size."""
    outcome = replayed(MEMORY, conversations, capacity, block_bytes)
    assert outcome.tiers == {"cpu": Alone()(conversations, "lru", capacity, ignored).hits}
    assert outcome.not_kept == 0


def test_a_request_longer_than_the_capacity(traced: Callable[..., Trace]) -> None:
    """Its beginning is kept, and of the rest it is said that it was not."""
    outcome = replayed(MEMORY, traced([1, 2, 3, 4, 5], [], [1, 2, 3, 4, 5]), 2)
    assert outcome.hits == 2 and outcome.not_kept == 6


def test_a_second_tier_has_what_left_the_first(conversations: Trace) -> None:
    outcome = replayed(dict(DEFAULT_TABLES), conversations, 40)
    assert outcome.hits == infinite(conversations)
    assert list(outcome.tiers) == ["cpu", "redis"] and min(outcome.tiers.values()) > 0


def test_nothing_stays_behind_in_a_tier_of_others(conversations: Trace, redis_server: Callable[..., Any]) -> None:
    server = redis_server()
    tables = {**MEMORY, "tiers": [*MEMORY["tiers"], {"name": "redis", "url": server.url}]}
    for _ in range(2):
        assert replayed(tables, conversations, 40).hits == infinite(conversations)
        with server.client() as client:
            assert client.dbsize() == 0


def test_no_block_passes_for_another() -> None:
    payloads = Payloads(64)
    chain = payloads.chain((3, 4))
    planes = SPEC.planes(64)
    assert len(set(chain.keys)) == 2 and payloads.chain((4,)).keys == chain.keys[1:]
    mine = Block(chain.keys[0], 512, planes, [payloads.data(3)])
    assert payloads.holds(mine, 3) and not payloads.holds(mine, 4)
    assert not (payloads.data(3).reshape(-1, 8) == payloads.data(4).reshape(-1, 8)).all(axis=1).any()
    flipped = payloads.data(3)
    flipped[63] ^= 1
    assert not payloads.holds(Block(chain.keys[0], 512, planes, [flipped]), 3)


@pytest.mark.parametrize("size", [0, -8, 7, 1 << 30])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ConfigError, match="--block-bytes must be a multiple of 8"):
        Through(MEMORY, size)
