"""What only shows when two things meet at one instant: the instant is made, not waited for."""

import contextlib
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest

from cachestore.block import Block, Buffer
from cachestore.codecs.base import Codec
from cachestore.codecs.lz4 import Lz4
from cachestore.codecs.planes import encode_plane
from cachestore.codecs.raw import Raw
from cachestore.errors import Aborted
from cachestore.eviction.lru import Lru
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.seal import CorruptBlock
from cachestore.store import local_reading
from cachestore.store.base import Store, put_blocks
from cachestore.store.checks import is_flat
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, sealed_block, small_spec
from cachestore.testing.tiers import KEYS, A, B, departed, soon
from cachestore.tiers.cpu import Cpu
from cachestore.tiers.disk import Disk, DiskTier
from cachestore.tiers.disk_entry import DiskEntry
from cachestore.tiers.disk_index import DiskIndex
from cachestore.tiers.ledger import Ledger
from cachestore.tiers.redis import Redis
from cachestore.tiers.redis_blocks import DURABLE_PREFIX

SPEC = small_spec()
BLOCK = 2560
Opener = Callable[..., TieredStore]


def read(store: Store, keys: Chain) -> list[Block]:
    with store.read(keys) as blocks:
        return [block for block, _ in blocks]


@pytest.mark.parametrize("codec", [None, Lz4()], ids=["raw", "coded"])
def test_a_writer_that_an_abort_overtook_writes_nothing(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch, codec: Codec | None
) -> None:
    store = open_store(4 * BLOCK).namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    others, values = random_prompt(SPEC, 4, seed=2)
    with store.put(keys.fingerprint, plans_of(blocks), codec=codec) as late:

        def overtaken(data: Buffer) -> bool:
            # between its look at whether the put is open, and its bytes
            monkeypatch.undo()
            late.abort()
            assert {answer.status for answer in put_blocks(store, others.fingerprint, values)} == {"stored"}
            return is_flat(data)

        monkeypatch.setattr("cachestore.store.laying.is_flat", overtaken)
        with contextlib.suppress(Aborted):
            late.write(3, 0, blocks[3].data[0])
    assert all(map(same, read(store, others), values)) and len(read(store, others)) == 4
    assert total(store.stats(), "corruptions") == 0


@pytest.mark.parametrize("codec", [Raw(), Lz4()], ids=["raw", "coded"])
def test_a_plane_that_changed_on_its_way_fails_its_block(open_store: Opener, codec: Codec) -> None:
    store = open_store().namespace("a")
    keys, blocks = random_prompt(SPEC, 1)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        for number, plane in enumerate(blocks[0].planes):
            encoded = encode_plane(codec, np.zeros(plane.raw_bytes, dtype=np.uint8), plane)
            assert encoded.codec == codec.id
            stored = encoded.stored.copy()
            stored[0] ^= number == 1
            put.write_encoded(0, number, encoded._replace(stored=stored))
        put.commit()
    assert [answer.status for answer in put.answers] == ["failed"] and store.lookup(keys).ready == 0


def test_a_lease_that_ends_while_a_block_is_copied_gives_no_hit(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    store = open_store().namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    decoded = local_reading.decoded
    with store.read(keys, lease=store.lease(keys, ttl=0.5)) as blocks_read:

        def slow(*arguments: Any, **options: Any) -> Block:
            block = decoded(*arguments, **options)
            eventually(lambda: total(store.stats(), "leases_open") == 0)
            return block

        monkeypatch.setattr(local_reading, "decoded", slow)
        assert list(blocks_read) == []
    figures = store.stats()
    assert total(figures, "read_expired") == 2 and total(figures, "read_hits") == 0


def test_pinned_blocks_are_not_even_copied_for_others(open_store: Opener) -> None:
    tiered = open_store(4 * BLOCK, {}, write="eviction", pin_share=1.0)
    store, (redis,) = tiered.namespace("a"), tiered.cold
    keys, blocks = random_prompt(SPEC, 4)
    put_blocks(store, keys.fingerprint, blocks)
    assert store.pin(keys, 60) == 4
    others, values = random_prompt(SPEC, 2, seed=2)
    answers = put_blocks(store, others.fingerprint, values, timeout=5)
    assert [(answer.status, answer.tier) for answer in answers] == [("stored", redis.name)] * 2
    assert redis.present(store.namespace, keys.keys, soon()) == [False] * 4
    store.unpin(keys)


def test_a_read_ends_at_the_first_block_that_is_corrupt(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    put_blocks(store, keys.fingerprint, blocks)
    entry = tiered.index.get(Name(store.namespace, keys.keys[1]))
    assert entry is not None
    entry.slot.bytes[-1] ^= 1
    entry.slot.bytes[100] ^= 1
    assert [block.key for block in read(store, keys)] == [keys.keys[0]]
    figures = store.stats()
    assert [total(figures, f"read_{name}") for name in ("hits", "corrupt", "misses")] == [1, 1, 2]


def test_memory_given_out_again_has_another_generation() -> None:
    """Who looks from another process has nothing but the word in front of the bytes."""
    tier = Cpu(1 << 20).start()
    words = []
    for _ in range(3):
        slot = tier.take(A, 1000)
        assert slot is not None and slot.offset == 0
        words.append(int(slot.slab.words[0]))
        tier.give(slot)
    tier.close()
    assert len(set(words)) == 3 and 0 not in words


def test_what_claims_to_be_huge_takes_no_memory() -> None:
    """A plane's raw size stands in a header that anybody may have written."""
    bomb = np.frombuffer(lz4.block.compress(bytes(1000), store_size=False), dtype=np.uint8)
    out = np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.uint8), (1 << 28,), (0,))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptBlock, match="codec"):
            Lz4().decode(bomb, out, 1)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_disk_serves_no_block_after_its_end() -> None:
    """Also where nobody has come round yet to remove it."""
    index = DiskIndex(Lru(), 1 << 20, Ledger("disk"))
    entry = DiskEntry(A, KEYS[0], 1000, ends=time.time() + 0.5)
    index.found([entry])
    assert index.use(A, KEYS[:1]) == [entry]
    index.leave([entry])
    time.sleep(max(0.0, entry.ends + 0.01 - time.time()))
    assert index.use(A, KEYS[:1]) == [None]
    assert index.overdue() is entry


def test_a_file_in_the_folder_of_another_namespace_is_removed(tmp_path: Path) -> None:
    def opened() -> DiskTier:
        tier = Disk(str(tmp_path), 1 << 20).start(Lru())
        tier.open(departed)
        return tier

    tier = opened()
    assert tier.put_many(A, [(KEYS[0], sealed_block(A, KEYS[0]))], None, soon()) == [True]
    tier.close()
    (tmp_path / A.hex()).rename(tmp_path / B.hex())
    tier = opened()
    try:
        assert tier.present(B, KEYS[:1], soon()) == [False] and not any((tmp_path / B.hex()).glob("*/*"))
    finally:
        tier.close()


def test_redis_serves_no_durable_block_after_its_end(redis_scripted: Any) -> None:
    """A durable block has no time to live in Redis: what is over stays there until somebody removes it."""
    now = int(time.time() * 1000)
    over, lasting = (sealed_block(A, KEYS[0], expires=now + left, durable=True) for left in (-1, 60_000))
    tier = Redis(redis_scripted.url, durable="wait", replicas=1, connect_timeout=2.0, timeout=2.0).start(Lru())
    tier.open(departed)
    try:
        for block in (over, lasting):
            answer = b"$%d\r\n%b\r\n" % (block.nbytes, block.tobytes())
            redis_scripted.script = lambda asked, answer=answer: (
                answer if asked[0] == b"GET" and asked[1].startswith(DURABLE_PREFIX) else b""
            )
            (found,) = tier.get_many(A, KEYS[:1], soon())
            assert (found is not None) == (block is lasting)
    finally:
        tier.close()


@pytest.mark.parametrize("failing", range(3))
def test_the_last_write_is_acknowledged_too(redis_scripted: Any, failing: int) -> None:
    """A server that stops to acknowledge before the block is written, behind it, or once it is to stay."""
    acks = iter(b":0\r\n" if number == failing else b":1\r\n" for number in range(3))
    redis_scripted.script = lambda asked: next(acks) if asked[0] == b"WAIT" and asked[1] == b"1" else b""
    settings = Redis(redis_scripted.url, durable="wait", replicas=1, connect_timeout=2.0, timeout=2.0)
    tier = settings.start(Lru())
    tier.open(departed)
    try:
        block = sealed_block(A, KEYS[0], durable=True)
        assert tier.put_many(A, [(KEYS[0], block)], None, soon(), durable=True) == [False]
    finally:
        tier.close()
