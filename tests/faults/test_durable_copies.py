"""A durable copy that goes bad is made again of a good one, or counted as lost; promises stay within the quota."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.errors import Overloaded
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Durability, put_blocks
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560
Opener = Callable[..., Any]
Spoil = Callable[[Any, bytes], None]


def keep(node: Any, keys: Chain, blocks: list[Block]) -> list[str]:
    with node.store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        put.commit()
        statuses = [str(answer.status) for answer in put.answers]
    assert node.tiered.settle()
    return statuses


def flip(node: Any, key: bytes) -> None:
    value = node.value("disk", key)
    node.replace("disk", key, value[:-1] + bytes([value[-1] ^ 1]))


def cut(node: Any, key: bytes) -> None:
    node.replace("disk", key, node.value("disk", key)[:100])


def remove(node: Any, key: bytes) -> None:
    node._file(key).unlink()


@pytest.mark.parametrize("spoil", [flip, cut, remove])
def test_a_durable_copy_is_made_again_of_the_one_in_redis(open_node: Opener, spoil: Spoil) -> None:
    node = open_node(tiers="disk redis")
    keys, blocks = random_prompt(SPEC, 1)
    keep(node, keys, blocks)
    durable = total(node.local.stats(), "tier_durable_bytes", tier="disk")
    node.store.clear("cpu")
    spoil(node, keys.keys[0])
    node.read(keys)
    assert node.tiered.settle() and total(node.local.stats(), "data_loss") == 0
    assert total(node.local.stats(), "tier_durable_bytes", tier="disk") == durable
    # it survives what takes memory and Redis away
    node.only_in("disk", keys)
    node.tiered.close()
    assert all(map(same, open_node(tiers="disk").read(keys), blocks))


@pytest.mark.parametrize("spoil", [flip, cut, remove])
def test_a_durable_block_without_a_good_copy_is_lost_once(open_node: Opener, spoil: Spoil) -> None:
    node = open_node(tiers="disk redis")
    keys, blocks = random_prompt(SPEC, 2)
    keep(node, keys, blocks)
    node.only_in("disk", keys)
    spoil(node, keys.keys[1])
    for _ in range(3):
        assert [same(block, blocks[0]) for block in node.read(keys)] == [True] and node.tiered.settle()
    assert total(node.local.stats(), "data_loss", tier="disk") == 1
    assert keep(node, keys, blocks) == ["already_exists", "stored"]
    assert all(map(same, node.read(keys), blocks)) and total(node.local.stats(), "data_loss") == 1


def test_what_was_deleted_is_no_loss(open_node: Opener) -> None:
    node = open_node(tiers="disk redis")
    keys, blocks = random_prompt(SPEC, 2)
    keep(node, keys, blocks)
    for key in keys.keys:
        remove(node, key)
    assert node.store.delete(keys) == 2 and node.tiered.settle()
    assert total(node.local.stats(), "data_loss") == 0 == node.store.lookup(keys).ready


def test_open_puts_promise_no_more_than_the_quota(open_node: Opener) -> None:
    node = open_node(tiers="disk", durable_quota=6 * BLOCK)
    keys, blocks = random_prompt(SPEC, 4)
    others, values = random_prompt(SPEC, 4, 2)
    with node.store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        with pytest.raises(Overloaded, match="durable_quota"):
            node.store.put(others.fingerprint, plans_of(values), durability=Durability.DURABLE)
        write_blocks(put, blocks)
        put.commit()
    with pytest.raises(Overloaded):
        keep(node, others, values)
    assert total(node.local.stats(), "tier_durable_bytes") <= 6 * BLOCK
    assert node.store.delete(keys) == 4 and keep(node, others, values) == ["stored"] * 4


def test_a_durable_put_that_is_repeated_at_the_quota_is_no_more_than_that(open_node: Opener) -> None:
    node = open_node(tiers="disk", durable_quota=4 * BLOCK)
    keys, blocks = random_prompt(SPEC, 4)
    assert keep(node, keys, blocks) == ["stored"] * 4
    assert keep(node, keys, blocks) == ["already_exists"] * 4
    assert total(node.local.stats(), "tier_durable_bytes") <= 4 * BLOCK


def test_what_a_put_that_failed_promised_is_given_back(open_node: Opener) -> None:
    node = open_node(tiers="disk", durable_quota=4 * BLOCK)
    keys, blocks = random_prompt(SPEC, 4)
    for _ in range(3):
        with node.store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
            put.abort()
    assert keep(node, keys, blocks) == ["stored"] * 4


def test_memory_relies_on_no_copy_that_others_of_its_batch_drove_out(open_node: Opener) -> None:
    node = open_node(tiers="disk", disk="1MiB")
    keys, blocks = random_prompt(SPEC, 300)
    put_blocks(node.store, keys.fingerprint, blocks)
    assert node.tiered.settle() and 0 < total(node.local.stats(), "tier_blocks", tier="disk") <= 256
    (disk,) = node.tiered.cold
    entries = node.tiered.index.entries(node.local.namespace)
    there = [entry.name.key for entry in entries if node._file(entry.name.key).exists()]
    assert sorted(there) == sorted(entry.name.key for entry in entries if disk.name in entry.cold)
