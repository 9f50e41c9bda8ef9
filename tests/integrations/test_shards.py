"""The ranks of a tensor-parallel engine have every head group between them, and write each once."""

import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.errors import ConfigError
from cachestore.integrations.vllm_shards import shard


def spec(kv_heads: int, head_groups: int) -> BlockSpec:
    return BlockSpec("model", "one", "bfloat16", (Slot(kv_heads, 8, 8), Slot(kv_heads, 8, 4)), head_groups)


@pytest.mark.parametrize("kv_heads, head_groups, ranks", [(8, 8, 2), (16, 8, 8), (8, 8, 16), (1, 1, 4), (6, 6, 3)])
def test_every_group_is_written_once_and_has_the_planes_of_its_part(
    kv_heads: int, head_groups: int, ranks: int
) -> None:
    whole = spec(kv_heads, head_groups)
    shards = [shard(whole, rank, ranks) for rank in range(ranks)]
    written = [group for each in shards if each.writes and each.groups is not None for group in each.groups]
    assert written == list(range(head_groups))
    for each in shards:
        part = [plane for plane in whole.planes() if each.part.holds(plane.slot, plane.half, plane.group)]
        assert [plane.raw_bytes for plane in each.spec.planes()] == [plane.raw_bytes for plane in part]
        assert each.spec.slots[0].kv_heads == max(1, kv_heads // ranks)


def test_a_rank_alone_has_whole_blocks() -> None:
    alone = shard(spec(8, 8), 0, 1)
    assert alone.groups is None and alone.writes and alone.spec == spec(8, 8)


@pytest.mark.parametrize("kv_heads, head_groups, ranks", [(8, 8, 3), (6, 6, 4), (16, 8, 16)])
def test_heads_of_a_rank_that_are_no_whole_groups_are_refused(kv_heads: int, head_groups: int, ranks: int) -> None:
    with pytest.raises(ConfigError, match=f"--tensor-parallel-size {ranks} does not spread the {head_groups} head"):
        shard(spec(kv_heads, head_groups), 0, ranks)
