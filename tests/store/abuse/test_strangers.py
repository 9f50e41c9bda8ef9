"""Blocks, handles and memory that are somebody else's by now, or always were."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cachestore.errors import InvalidArgument, LeaseExpired
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.store.base import Lease, put_blocks
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, same
from tests.store.abuse.values import SPEC, read


def test_a_valid_block_in_anothers_place_is_a_miss(tiered: TieredStore, store: LocalStore, tmp_path: Path) -> None:
    other = tiered.namespace("b")
    keys, blocks = random_prompt(SPEC, 3)
    for view in (store, other):
        put_blocks(view, keys.fingerprint, blocks)
    assert tiered.settle()
    for tier in ("cpu", "redis"):
        store.clear(tier)

    def file(view: LocalStore, number: int) -> Path:
        key = keys.keys[number].hex()
        return tmp_path / "blocks" / view.namespace.hex() / key[:2] / key

    shutil.copyfile(file(other, 0), file(store, 0))
    shutil.copyfile(file(store, 2), file(store, 1))
    for number in range(3):
        found = read(store, Chain(keys.fingerprint, keys.keys[number : number + 1]))
        assert [same(block, blocks[2]) for block in found] == [True] * (number == 2)
    assert total(store.stats(), "corruptions", tier="disk", reason="identity") == 2
    assert len(read(other, keys)) == 3


def test_a_handle_of_nobody_of_another_or_of_the_past_is_refused(tiered: TieredStore, store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    theirs, over, short = store.lease(keys), store.lease(keys), store.lease(keys, ttl=1e-3)
    store.release(over)
    time.sleep(5e-3)
    guessed = Lease(bytes(16), 2, 10.0)
    for view, lease in (
        (store, guessed), (store, over), (store, short), (tiered.namespace("b"), theirs), (store, Lease(b"", 2, 10.0)),
    ):  # fmt: skip
        with pytest.raises(LeaseExpired):
            view.read(keys, lease=lease)
        with pytest.raises(LeaseExpired):
            view.release(lease)
        with pytest.raises(LeaseExpired):
            view.renew(lease.id, 10.0)
    with pytest.raises(InvalidArgument, match="another chain"):
        store.read(Chain(keys.fingerprint, keys.keys[::-1]), lease=theirs)
    store.release(theirs)


def test_a_slot_that_was_filled_anew_is_never_read_as_what_it_was(tiered: TieredStore, store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 12)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    reading = store.read(keys)
    sealed = next(iter(reading.sealed))
    before = tiered.index.get(Name(store.namespace, sealed.header.key))
    assert before is not None
    place = before.slot.slab, before.slot.offset
    # the lease ends under the reader, and others take the memory
    store.release(Lease(reading.sealed.lease.id, 12, 1.0))
    store.clear("cpu")
    others, values = random_prompt(SPEC, 12, 2)
    put_blocks(store, others.fingerprint, values)
    after = [(entry.slot.slab, entry.slot.offset) for entry in tiered.index.entries(store.namespace)]
    assert place in after
    with pytest.raises(Exception, match="stale"):
        sealed.check()
    assert list(reading) == []
    reading.close()


@pytest.mark.parametrize(("field", "reason"), [("place", "identity"), ("generation", "stale")])
def test_an_index_entry_that_went_wrong_gives_nobody_elses_bytes(
    tiered: TieredStore, store: LocalStore, field: str, reason: str
) -> None:
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    for tier in ("disk", "redis"):
        store.clear(tier)
    entry, other = (tiered.index.get(Name(store.namespace, key)) for key in keys.keys)
    assert entry is not None and other is not None
    right = entry.slot
    entry.slot = replace(other.slot) if field == "place" else replace(right, generation=right.generation + 1)
    with store.read(keys) as reading:
        assert list(reading) == []
        # what is taken back when the read is over is the memory that it had
        entry.slot = right
    assert total(store.stats(), "corruptions", tier="cpu", reason=reason) == 1
