"""A put that fails leaves nothing in any tier; one that succeeds bit by bit keeps what it has published."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.errors import DurabilityUnmet, Overloaded, Unavailable
from cachestore.metrics import total
from cachestore.store import committing, removal
from cachestore.store.base import Durability, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560
SOON = 10.0


@pytest.fixture
def with_disk(tmp_path: Path, open_tiers: Callable[..., TieredStore]) -> Callable[..., TieredStore]:
    """Opens a store with a disk tier behind its memory, and further tiers behind that."""

    def start(*further: dict[str, Any], memory: str | int = "1MiB", **store: Any) -> TieredStore:
        disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
        return open_tiers([{"name": "cpu", "capacity": memory}, disk, *further], store)

    return start


@pytest.mark.parametrize("fail", ["abort", "deadline"])
@pytest.mark.parametrize("durability", list(Durability))
def test_a_put_that_ends_while_it_is_copied_leaves_no_copies(
    with_disk: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch, durability: Durability, fail: str
) -> None:
    tiered = with_disk(memory=4 * BLOCK)
    store, (disk,) = tiered.namespace("a"), tiered.cold
    held, values = random_prompt(SPEC, 4)
    put_blocks(store, held.fingerprint, values)
    assert tiered.settle()
    # with all of the memory leased, what is put has to go to the disk alone
    lease = store.lease(held)
    keys, blocks = random_prompt(SPEC, 3, seed=2)
    put = store.put(keys.fingerprint, plans_of(blocks), durability=durability, timeout=1.5 if fail == "deadline" else 9)
    write_blocks(put, blocks)
    copied, removed = disk.put_many, disk.delete_many
    meanwhile: list[str] = []

    def copy(*arguments: Any, **options: Any) -> list[bool]:
        kept = copied(*arguments, **options)
        assert kept == [True] * 3
        if fail == "abort":
            put.abort()
        else:
            time.sleep(put.deadline.remaining() + 0.01)
            tiered.expire()
        return kept

    def remove(*arguments: Any, **options: Any) -> list[bool] | None:
        with store.put(keys.fingerprint, plans_of(blocks)) as other:
            meanwhile.extend(answer.status for answer in other.answers)
        return removed(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "put_many", copy)
        patched.setattr(disk, "delete_many", remove)
        with suppress(DurabilityUnmet):
            put.commit()
        assert [answer.status for answer in put.answers] == ["failed"] * 3
        assert tiered.settle()
    assert set(meanwhile) == {"in_progress"}
    assert disk.present(store.namespace, keys.keys, Deadline.after(SOON)) == [False] * 3 and store.lookup(keys) == (
        0,
        (),
        0,
    )
    assert total(store.stats(), "tier_durable_bytes", tier="disk") == 0
    with store.put(keys.fingerprint, plans_of(blocks), durability=durability) as again:
        write_blocks(again, blocks)
        again.commit()
        assert [answer.status for answer in again.answers] == ["stored"] * 3
    store.release(lease)


@pytest.mark.parametrize("late", [False, True])
def test_copies_that_cannot_be_taken_back_are_counted(
    open_store: Callable[..., TieredStore],
    redis_server: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., None],
    late: bool,
) -> None:
    server = redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"])
    tiered = open_store("1MiB", {"url": server.url, "durable": "aof", "timeout": 2.0, "connect_timeout": 2.0})
    store, (redis,) = tiered.namespace("a"), tiered.cold
    keys, blocks = random_prompt(SPEC, 3)
    put = store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE)
    write_blocks(put, blocks)
    copied = redis.put_many

    def copy(*arguments: Any, **options: Any) -> list[bool]:
        kept = copied(*arguments, **options)
        assert kept == [True] * 3
        put.abort()
        if late:
            # nobody waits for the copies any more
            eventually(lambda: not tiered.index.everything())
        server.kill()
        return kept

    with monkeypatch.context() as patched:
        patched.setattr(removal, "MOVE_SECONDS", 0.1 if late else SOON)
        patched.setattr(redis, "put_many", copy)
        with pytest.raises(DurabilityUnmet):
            put.commit()
        assert tiered.settle()
    assert total(store.stats(), "left_behind", tier="redis") == 3
    server.start()
    eventually(lambda: redis.present(store.namespace, keys.keys, Deadline.after(SOON)) == [True] * 3)


@pytest.mark.parametrize("remove", ["delete", "clear"])
def test_what_is_removed_while_it_becomes_durable_leaves_no_copies(
    with_disk: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch, remove: str
) -> None:
    tiered = with_disk({"name": "redis"})
    store, (disk, redis) = tiered.namespace("a"), tiered.cold
    keys, blocks = random_prompt(SPEC, 2)
    put = store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE)
    write_blocks(put, blocks)
    method = "delete_many" if remove == "delete" else "clear"
    removing, securing = getattr(redis, method), committing.secure
    copied, over = threading.Event(), threading.Event()
    commits: list[Future[Any]] = []

    def secure(*arguments: Any) -> None:
        securing(*arguments)
        copied.set()
        assert over.wait(SOON)

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patched:

        def remove_below(*arguments: Any, **options: Any) -> Any:
            # the disk was asked already; only now does the put copy its blocks there
            if not commits:
                commits.append(pool.submit(put.commit))
                assert copied.wait(SOON)
            return removing(*arguments, **options)

        patched.setattr(redis, method, remove_below)
        patched.setattr(committing, "secure", secure)
        assert (store.delete(keys) if remove == "delete" else store.clear()) == 0
        assert disk.present(store.namespace, keys.keys, Deadline.after(SOON)) == [False] * 2
        over.set()
        with pytest.raises(DurabilityUnmet):
            commits[0].result(SOON)
    put.abort()
    assert store.lookup(keys) == (0, (), 0)


@pytest.mark.parametrize("remove", ["delete", pytest.param("clear", marks=pytest.mark.slow)])
def test_a_copy_that_is_under_way_is_removed_when_it_has_arrived(
    with_disk: Callable[..., TieredStore],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., None],
    remove: str,
) -> None:
    tiered = with_disk()
    store, (disk,) = tiered.namespace("a"), tiered.cold
    keys, blocks = random_prompt(SPEC, 2)
    put = store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE, timeout=2.0)
    write_blocks(put, blocks)
    copied = disk.put_many
    copying, withdrawn = threading.Event(), threading.Event()

    def copy(*arguments: Any, **options: Any) -> list[bool]:
        copying.set()
        assert withdrawn.wait(SOON)
        kept = copied(*arguments, **options)
        # with no time left the put cannot remove it itself
        time.sleep(put.deadline.remaining() + 0.01)
        return kept

    with ThreadPoolExecutor(2) as pool, monkeypatch.context() as patched:
        patched.setattr(disk, "put_many", copy)
        committing = pool.submit(put.commit)
        assert copying.wait(SOON)
        removing = pool.submit(store.delete, keys) if remove == "delete" else pool.submit(store.clear)
        eventually(lambda: all(entry.withdrawn for entry in tiered.index.everything()))
        withdrawn.set()
        assert removing.result(SOON) == 0
        with pytest.raises(DurabilityUnmet):
            committing.result(SOON)
    put.abort()
    assert disk.present(store.namespace, keys.keys, Deadline.after(SOON)) == [False] * 2
    assert store.lookup(keys).ready == 0


def test_a_withdrawn_block_is_not_durable_by_the_copy_it_has_still(
    with_disk: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiered = with_disk()
    store, (disk,) = tiered.namespace("a"), tiered.cold
    keys, blocks = random_prompt(SPEC, 2)
    copied, removed = disk.put_many, disk.delete_many
    removals: list[Any] = []

    def copy(*arguments: Any, **options: Any) -> list[bool]:
        kept = copied(*arguments, **options)
        with tiered.index.changed:
            # somebody removes the blocks, and waits for their copies
            for entry in tiered.index.everything():
                entry.withdrawn = True
        return kept

    def remove(*arguments: Any, **options: Any) -> list[bool] | None:
        removals.append(arguments)
        # the first, which is the copy's own, finds no time left
        return None if len(removals) == 1 else removed(*arguments, **options)

    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        with monkeypatch.context() as patched:
            patched.setattr(disk, "put_many", copy)
            patched.setattr(disk, "delete_many", remove)
            with pytest.raises(DurabilityUnmet):
                put.commit()
            assert tiered.settle()
    assert len(removals) > 1 and store.lookup(keys) == (0, (), 0)


@pytest.mark.parametrize("remove", ["delete", "clear", "clear disk"])
@pytest.mark.parametrize("left", [False, True])
def test_no_copy_of_a_published_block_arrives_behind_its_removal(
    with_disk: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch, remove: str, left: bool
) -> None:
    tiered = with_disk()
    store, (disk,) = tiered.namespace("a"), tiered.cold
    keys, blocks = random_prompt(SPEC, 2)
    copied = disk.put_many
    copying, removing = threading.Event(), threading.Event()

    def copy(*arguments: Any, **options: Any) -> list[bool]:
        copying.set()
        assert removing.wait(SOON)
        time.sleep(0.1)
        return copied(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(disk, "put_many", copy)
        put_blocks(store, keys.fingerprint, blocks)
        assert copying.wait(SOON)
        if left:
            assert store.clear("cpu") == 2
        removing.set()
        store.delete(keys) if remove == "delete" else store.clear(remove.removeprefix("clear").strip())
        there = disk.present(store.namespace, keys.keys, Deadline.after(SOON))
        assert tiered.settle()
    assert there == disk.present(store.namespace, keys.keys, Deadline.after(SOON)) == [False] * 2


@pytest.mark.parametrize("remove", ["delete", "clear"])
def test_a_removal_waits_for_copies_to_a_hot_tier(
    open_tiers: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch, remove: str
) -> None:
    gpu = {"name": "gpu", "device": "cpu", "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "1MiB"}, gpu], {"hot_after": 1})
    store, (hot,) = tiered.namespace("a"), tiered.hot
    keys, blocks = random_prompt(SPEC, 2)
    copied = hot.put_many
    copying, removing, arrived = threading.Event(), threading.Event(), threading.Event()

    def copy(*arguments: Any, **options: Any) -> list[bool]:
        copying.set()
        assert removing.wait(SOON)
        time.sleep(0.1)
        kept = copied(*arguments, **options)
        assert kept == [True] * 2
        arrived.set()
        return kept

    with monkeypatch.context() as patched:
        patched.setattr(hot, "put_many", copy)
        put_blocks(store, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            assert len(list(reading)) == 2
        assert copying.wait(SOON)
        removing.set()
        store.delete(keys) if remove == "delete" else store.clear()
        assert arrived.is_set() and hot.present(store.namespace, keys.keys, Deadline.after(SOON)) == [False] * 2
        assert tiered.settle()
    assert hot.present(store.namespace, keys.keys, Deadline.after(SOON)) == [False] * 2


@pytest.mark.parametrize("remove", ["delete", "clear"])
def test_a_tier_that_cannot_be_asked_keeps_no_other_from_it(
    open_tiers: Callable[..., TieredStore], redis_server: Callable[..., Any], tmp_path: Path, remove: str
) -> None:
    server = redis_server()
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "1MiB"}, {"name": "redis", "url": server.url}, disk], {})
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    server.kill()
    with pytest.raises(Unavailable, match="tier redis could not"):
        store.delete(keys) if remove == "delete" else store.clear()
    assert tiered.cold[1].present(store.namespace, keys.keys, Deadline.after(SOON)) == [False] * 3
    assert store.lookup(keys) == (0, (), 0)


def test_published_blocks_stay_for_those_that_follow_until_the_put_ends(open_store: Callable[..., TieredStore]) -> None:
    store = open_store(8 * BLOCK).namespace("a")
    keys, blocks = random_prompt(SPEC, 6)
    other, values = random_prompt(SPEC, 4, seed=2)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        write_blocks(put, blocks)
        put.commit(range(3))
        statuses = [answer.status for answer in put_blocks(store, other.fingerprint, values)]
        assert statuses == ["stored"] * 2 + ["not_kept"] * 2
        put.commit(range(3, 6))
    assert store.lookup(keys).ready == 6
    assert {answer.status for answer in put_blocks(store, other.fingerprint, values)} == {"already_exists", "stored"}


def test_durable_bytes_count_once_while_they_are_committed(
    with_disk: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiered = with_disk(durable_quota=10 * BLOCK)
    store, (disk,) = tiered.namespace("a"), tiered.cold
    (keys, blocks), (other, values), (third, one) = [random_prompt(SPEC, n, seed=n) for n in (6, 4, 1)]
    copied = disk.put_many
    tried: list[str] = []

    def copy(*arguments: Any, **options: Any) -> list[bool]:
        kept = copied(*arguments, **options)
        with pytest.raises(Overloaded):
            store.put(third.fingerprint, plans_of([*values, *one]), durability=Durability.DURABLE)
        with store.put(other.fingerprint, plans_of(values), durability=Durability.DURABLE) as second:
            tried.extend(answer.status for answer in second.answers)
        return kept

    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        with monkeypatch.context() as patched:
            patched.setattr(disk, "put_many", copy)
            put.commit()
    assert tried == ["wanted"] * 4 and not any(tiered.promised.values())


def test_durable_bytes_count_once_from_the_commit_on(with_disk: Callable[..., TieredStore]) -> None:
    tiered = with_disk(durable_quota=10 * BLOCK)
    store = tiered.namespace("a")
    prompts = [random_prompt(SPEC, count, seed=count) for count in (6, 4, 1)]
    (keys, blocks), (other, values), (third, one) = prompts
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        put.commit(range(3))
        with pytest.raises(Overloaded):
            store.put(other.fingerprint, plans_of([*values, *one]), durability=Durability.DURABLE)
        with store.put(other.fingerprint, plans_of(values), durability=Durability.DURABLE) as second:
            write_blocks(second, values)
            put.commit()
            second.commit()
            assert {answer.status for answer in second.answers} == {"stored"}
    with pytest.raises(Overloaded):
        store.put(third.fingerprint, plans_of(one), durability=Durability.DURABLE)
    assert store.delete(keys) == 6
    with store.put(third.fingerprint, plans_of(one), durability=Durability.DURABLE) as put:
        assert [answer.status for answer in put.answers] == ["wanted"]
