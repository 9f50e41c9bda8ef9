"""Durable blocks that Redis lost are made again or counted, once; those that somebody removed are neither."""

import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store import repairing, upkeep
from cachestore.store.base import Durability, Store
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks
from cachestore.testing.tiers import soon

SPEC = small_spec()
BLOCK = 2560
KEYS, BLOCKS = random_prompt(SPEC, 3)
Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "EVERY_SECONDS", 0.0)


@pytest.fixture
def server(redis_server: Callable[..., Any]) -> Any:
    return redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"])


@pytest.fixture
def node(open_store: Callable[..., TieredStore], server: Any) -> Callable[..., LocalStore]:
    """Opens stores that share a Redis which keeps blocks for good."""

    def start(**store: Any) -> LocalStore:
        redis = {"url": server.url, "durable": "aof", "check_after": 0.05}
        return open_store("1MiB", redis, **store).namespace("a")

    return start


def keep(store: Store, keys: Chain = KEYS, blocks: list[Block] = BLOCKS, ttl: float | None = None) -> None:
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE, ttl=ttl) as put:
        write_blocks(put, blocks)
        put.commit()


def kept(store: Store) -> int:
    return total(store.stats(), "tier_durable_bytes", tier="redis")


def losses(store: Store) -> int:
    return total(store.stats(), "data_loss", tier="redis")


def empty(server: Any) -> None:
    with server.client() as client:
        client.flushall()


def killed(server: Any) -> None:
    """It had no persistence after all."""
    server.kill()
    (server.folder / "appendonly.aof").unlink()
    server.start()


@pytest.mark.parametrize("lose", [empty, killed])
def test_what_redis_lost_is_counted_once(
    node: Callable[..., LocalStore], server: Any, eventually: Eventually, lose: Callable[[Any], None]
) -> None:
    store = node()
    keep(store)
    assert store.clear("cpu") == 3
    lose(server)
    eventually(lambda: store.lookup(KEYS).ready == 0 and losses(store) == 3)
    assert kept(store) == 0 and total(store.stats(), "tier_removed", tier="redis", why="lost") == 3
    store.lookup(KEYS)
    time.sleep(0.3)
    assert losses(store) == 3 and store.tiered.settle()
    # what is put anew can be lost anew
    keep(store)
    assert store.lookup(KEYS).ready == 3 and kept(store) > 0


def test_a_part_that_redis_lost_is_counted(
    node: Callable[..., LocalStore], server: Any, eventually: Eventually
) -> None:
    store = node()
    keep(store, KEYS.first(2), BLOCKS[:2])
    older = (server.folder / "appendonly.aof").read_bytes()
    keep(store)
    assert store.clear("cpu") == 3
    server.kill()
    (server.folder / "appendonly.aof").write_bytes(older)
    server.start()
    eventually(lambda: store.lookup(KEYS).ready == 2 and losses(store) == 1)


def test_what_memory_has_is_made_durable_again(
    node: Callable[..., LocalStore], server: Any, eventually: Eventually
) -> None:
    store = node()
    keep(store)
    before = kept(store)
    empty(server)
    store.tiered.cold[0].present(store.namespace, KEYS.keys, soon())
    with server.client() as client:
        eventually(lambda: client.dbsize() == 3)
        # each comes with a time to live, which goes once it is safe
        eventually(lambda: [client.pttl(name) for name in client.keys()] == [-1] * 3)
    eventually(lambda: kept(store) == before)
    assert losses(store) == 0 and store.tiered.settle() and store.clear("cpu") == 3
    with store.read(KEYS) as reading:
        assert all(same(block, ours) for (block, _), ours in zip(reading, BLOCKS, strict=True))


def test_what_is_made_again_is_within_the_quota(
    node: Callable[..., LocalStore], server: Any, eventually: Eventually
) -> None:
    store = node(durable_quota=4 * BLOCK)
    keep(store)
    others, blocks = random_prompt(SPEC, 3, seed=2)
    go_on = Event()

    def wait() -> None:
        go_on.wait(10)

    assert store.tiered.mover.submit(wait) is not None
    empty(server)
    time.sleep(0.06)
    # the put is let in before any of them is made again
    keep(store, others, blocks)
    go_on.set()
    eventually(lambda: losses(store) == 2)
    assert store.tiered.settle() and kept(store) <= 4 * BLOCK


def delete(other: Store) -> None:
    assert other.delete(KEYS) == 3


def clear(other: Store) -> None:
    assert other.clear() == 3


@pytest.mark.parametrize("moment", ["whole", "_keep_again"])
def test_a_removal_of_other_blocks_is_none_of_these(
    node: Callable[..., LocalStore],
    server: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    store = node()
    keep(store)
    before, (others, _) = kept(store), random_prompt(SPEC, 1, seed=2)
    real = getattr(repairing, moment)

    def beside_a_removal(*arguments: Any, **options: Any) -> Any:
        done = real(*arguments, **options)
        assert store.delete(others) == 0
        return done

    monkeypatch.setattr(repairing, moment, beside_a_removal)
    empty(server)
    store.tiered.cold[0].present(store.namespace, KEYS.keys, soon())
    eventually(lambda: total(store.stats(), "tier_removed", tier="redis", why="lost") == 3)
    assert store.tiered.settle() and kept(store) == before and losses(store) == 0 and store.clear("cpu") == 3
    with store.read(KEYS) as reading:
        assert all(same(block, ours) for (block, _), ours in zip(reading, BLOCKS, strict=True))
    # with no copy left they are counted, whatever else is removed meanwhile
    assert store.tiered.settle() and store.clear("cpu") == 3
    empty(server)
    eventually(lambda: store.lookup(KEYS).ready == 0 and losses(store) == 3)


@pytest.mark.parametrize("moment", ["whole", "_kept_by"])
@pytest.mark.parametrize("remove", [delete, clear])
def test_what_is_removed_while_it_is_made_again_stays_removed(
    node: Callable[..., LocalStore],
    server: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    remove: Callable[[Store], None],
) -> None:
    store = node()
    keep(store)
    real, removed = getattr(repairing, moment), list[int]()

    def and_removed(*arguments: Any, **options: Any) -> Any:
        done = real(*arguments, **options)
        if not removed:
            removed.append(store.delete(KEYS) if remove is delete else store.clear())
        return done

    monkeypatch.setattr(repairing, moment, and_removed)
    empty(server)
    store.tiered.cold[0].present(store.namespace, KEYS.keys, soon())
    eventually(lambda: removed)
    assert store.tiered.settle() and removed == [3]
    eventually(lambda: store.lookup(KEYS).ready == 0 == kept(store))
    assert losses(store) == 0
    with server.client() as client:
        assert not client.keys("cachestore:durable:*")


@pytest.mark.parametrize("remove", [delete, clear])
@pytest.mark.parametrize("first", [True, False])
def test_what_another_node_removed_is_no_loss(
    node: Callable[..., LocalStore], server: Any, eventually: Eventually, remove: Callable[[Store], None], first: bool
) -> None:
    ours, theirs = node(), node()
    keep(ours)
    assert theirs.lookup(KEYS).ready == 3
    if first:
        keep(theirs)
    remove(theirs)
    assert ours.clear("cpu") == 3
    eventually(lambda: ours.lookup(KEYS).ready == 0 == kept(ours))
    assert losses(ours) == 0 == losses(theirs) and kept(theirs) == 0
    # the note on it is over once it is put again
    keep(ours)
    with server.client() as client:
        assert not client.keys("cachestore:durable-removed:*")
        client.delete(*client.keys())
    assert ours.clear("cpu") == 3
    eventually(lambda: ours.lookup(KEYS).ready == 0 and losses(ours) == 3)


def test_what_ended_is_no_loss(node: Callable[..., LocalStore], server: Any, eventually: Eventually) -> None:
    ours, theirs = node(), node()
    keep(ours)
    keep(theirs)
    assert theirs.delete(KEYS) == 3
    # put again by another node for a while: this one knows nothing of that end
    keep(theirs, ttl=0.2)
    assert ours.clear("cpu") == 3 == theirs.clear("cpu")
    time.sleep(0.2)
    with server.client() as client:
        eventually(lambda: theirs.lookup(KEYS).ready == 0 and not client.keys("cachestore:durable:*"))
    eventually(lambda: ours.lookup(KEYS).ready == 0 == kept(ours))
    assert losses(ours) == 0 == losses(theirs)


def test_what_was_taken_back_is_no_loss(
    node: Callable[..., LocalStore], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = node(), node()
    keep(ours)
    assert theirs.delete(KEYS) == 3
    keep(theirs)
    (tier,) = theirs.tiered.cold
    assert tier.delete_many(theirs.namespace, KEYS.keys, soon(), why="withdrawn") == [True] * 3
    assert ours.clear("cpu") == 3
    eventually(lambda: ours.lookup(KEYS).ready == 0 == kept(ours))
    assert losses(ours) == 0


def test_a_spoiled_cache_copy_takes_no_durable_one_with_it(node: Callable[..., LocalStore], server: Any) -> None:
    ours, theirs = node(), node()
    with theirs.put(KEYS.fingerprint, plans_of(BLOCKS)) as put:
        write_blocks(put, BLOCKS)
        keep(ours)
        put.commit()
    assert theirs.tiered.settle()
    with server.client() as client:
        copies = client.keys("cachestore:block:*")
        assert len(copies) == 3 == len(client.keys("cachestore:durable:*"))
        for name in copies:
            client.setrange(name, client.strlen(name) - 1, bytes([client.getrange(name, -1, -1)[0] ^ 1]))
        assert theirs.clear("cpu") == 3 == ours.clear("cpu")
        for store in (theirs, ours):
            for _ in KEYS.keys:
                with store.read(KEYS) as reading:
                    list(reading)
                assert store.tiered.settle()
        assert len(client.keys("cachestore:durable:*")) == 3
    for store in (theirs, ours):
        with store.read(KEYS) as reading:
            assert all(same(block, mine) for (block, _), mine in zip(reading, BLOCKS, strict=True))
        assert total(store.stats(), "data_loss") == 0
