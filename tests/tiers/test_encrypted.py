"""Encrypted tiers: the contract, what the medium gets to see, and what a hand in the medium can do."""

import io
import logging
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.block import Buffer
from cachestore.eviction.lru import Lru
from cachestore.seal import DURABLE, ENCRYPTED, CorruptBlock, Header
from cachestore.sealing import Sealer
from cachestore.testing import TierTests, sealed_block
from cachestore.testing.tiers import KEYS, A, B, departed, equal, soon, value
from cachestore.tiers.base import ColdTier, Found
from cachestore.tiers.disk import Disk
from cachestore.tiers.encrypted import EncryptedTier
from cachestore.tiers.redis import Redis

SECRETS = {1: b"1" * 32, 2: b"2" * 32}


def opened(inner: ColdTier, epoch: int = 2) -> Iterator[EncryptedTier]:
    tier = EncryptedTier(inner, Sealer(SECRETS, epoch))
    tier.open(departed)
    yield tier
    tier.close()


class TestOverDisk(TierTests):
    @pytest.fixture
    def tier(self, tmp_path: Path) -> Iterator[ColdTier]:
        yield from opened(Disk(str(tmp_path / "blocks"), 64 << 20).start(Lru()))


class TestOverRedis(TierTests):
    @pytest.fixture
    def tier(self, redis_server: Callable[..., Any]) -> Iterator[ColdTier]:
        yield from opened(Redis(redis_server().url).start(Lru()))


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[EncryptedTier]:
    yield from opened(Disk(str(tmp_path / "blocks"), 64 << 20).start(Lru()))


@pytest.fixture
def tier(redis_server: Callable[..., Any]) -> Iterator[EncryptedTier]:
    yield from opened(Redis(redis_server().url).start(Lru()))


def plant(tier: EncryptedTier, namespace: bytes, key: bytes, data: Buffer) -> None:
    """Puts bytes where the medium has them, as whoever can write to it does."""
    assert tier.inner.put_many(namespace, [(key, data)], None, soon()) == [True]


def raw(tier: EncryptedTier, namespace: bytes, key: bytes) -> Buffer:
    found = tier.inner.get_many(namespace, [key], soon())[0]
    assert isinstance(found, np.ndarray)
    return found


def reason(found: Found) -> str:
    assert isinstance(found, CorruptBlock)
    return found.reason


def test_the_medium_sees_ciphertext_only(on_disk: EncryptedTier, tmp_path: Path) -> None:
    tier, block = on_disk, value(1, 100_000)
    assert tier.put_many(A, [(KEYS[1], block)], None, soon()) == [True]
    inside, header = Header.parse(block), Header.parse(raw(tier, A, KEYS[1]))
    assert header.flags & ENCRYPTED and header.key_epoch == 2
    tier.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert header.nonce in stored
    for row in inside.stored(range(len(inside.table))):
        plane = block[inside.size + row.offset :][: row.stored_bytes].tobytes()
        assert not any(plane[at : at + 16] in stored for at in range(0, len(plane) - 16, 997))


def test_a_replayed_block_is_refused_under_another_key_and_namespace(tier: EncryptedTier) -> None:
    assert tier.put_many(A, [(KEYS[1], value(1))], None, soon()) == [True]
    stolen = raw(tier, A, KEYS[1])
    plant(tier, A, KEYS[2], stolen)
    plant(tier, B, KEYS[1], stolen)
    assert reason(tier.get_many(A, [KEYS[2]], soon())[0]) == "identity"
    assert reason(tier.get_many(B, [KEYS[1]], soon())[0]) == "identity"
    assert equal(tier.get_many(A, [KEYS[1]], soon())[0], value(1))


def test_a_planted_plain_block_is_refused(tier: EncryptedTier) -> None:
    plant(tier, A, KEYS[1], value(1))
    assert reason(tier.get_many(A, [KEYS[1]], soon())[0]) == "plain"


def test_a_forged_header_is_refused(tier: EncryptedTier) -> None:
    other = sealed_block(A, KEYS[2], 1000, 2)
    plant(tier, A, KEYS[2], Sealer({2: b"3" * 32}, 2).seal(other))
    plant(tier, A, KEYS[3], Sealer({3: b"3" * 32}, 3).seal(sealed_block(A, KEYS[3])))
    got = tier.get_many(A, KEYS[2:4], soon())
    assert [reason(found) for found in got] == ["tag", "epoch"]


def test_blocks_of_an_older_secret_open(tier: EncryptedTier) -> None:
    old = EncryptedTier(tier.inner, Sealer(SECRETS, 1))
    assert old.put_many(A, [(KEYS[1], value(1))], None, soon()) == [True]
    assert Header.parse(raw(tier, A, KEYS[1])).key_epoch == 1
    assert equal(tier.get_many(A, [KEYS[1]], soon())[0], value(1))


def foreign(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "numpy":
        np.save(file, np.arange(500))
    elif kind == "torch":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(bytes(900)))
    else:
        file.write(pickle.dumps({"kv": bytes(900)}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "numpy", "torch"])
def test_what_others_would_unpickle_is_foreign(tier: EncryptedTier, kind: str) -> None:
    plant(tier, A, KEYS[1], np.frombuffer(foreign(kind), dtype=np.uint8))
    assert reason(tier.get_many(A, [KEYS[1]], soon())[0]) == "foreign"


def test_a_block_that_is_corrupt_is_not_kept_and_the_others_are(
    tier: EncryptedTier, caplog: pytest.LogCaptureFixture
) -> None:
    flipped = value(2)
    flipped[-80] ^= 1
    blocks = [(KEYS[1], value(1)), (KEYS[2], flipped), (KEYS[3], value(3))]
    with caplog.at_level(logging.ERROR):
        assert tier.put_many(A, blocks, None, soon()) == [True, False, True]
    assert "corrupt (checksum)" in caplog.text
    assert tier.present(A, KEYS[1:4], soon()) == [True, False, True]


def test_a_durable_block_says_so_to_its_medium(on_disk: EncryptedTier) -> None:
    block = sealed_block(A, KEYS[1], durable=True, expires=1 << 45)
    assert on_disk.durable and on_disk.put_many(A, [(KEYS[1], block)], None, soon(), durable=True) == [True]
    header = Header.parse(raw(on_disk, A, KEYS[1]))
    assert header.flags & DURABLE and header.expires == 1 << 45
    assert equal(on_disk.get_many(A, [KEYS[1]], soon())[0], block)


def test_more_than_one_batch(on_disk: EncryptedTier) -> None:
    blocks = [(key, value(number, 6 << 20)) for number, key in enumerate(KEYS)]
    assert on_disk.put_many(A, blocks, None, soon()) == [True] * len(KEYS)
    got = on_disk.get_many(A, KEYS, soon())
    assert all(equal(found, block) for found, (_, block) in zip(got, blocks, strict=True))
