"""The disk tier after a loss of power at any moment: whole blocks or none, and all acknowledged as durable."""

from copy import deepcopy
from pathlib import Path
from random import Random
from shutil import rmtree

import numpy as np
import pytest

from cachestore.eviction.lru import Lru
from cachestore.seal import Header
from cachestore.store.inspection import intact
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import KEYS, A, departed, soon
from cachestore.tiers.disk import Disk, DiskTier
from tests.faults.power import Medium, watched

NBYTES = 9_000
HISTORY: tuple[tuple[str, tuple[int, ...], int], ...] = (
    ("durable", (0,), 1),
    ("cache", (1,), 1),
    ("durable", (0, 2), 2),
    ("cache", (1, 3), 3),
    ("delete", (0,), 0),
    ("durable", (1,), 4),
    ("clear", (0, 1, 2, 3), 0),
    ("durable", (3,), 5),
)
"""What is done, to which blocks, with which content."""


class Promises:
    """Which contents each block may have after a loss of power; None stands for a miss."""

    def __init__(self) -> None:
        self.may: dict[int, set[int | None]] = {number: {None} for number in range(4)}
        self._durable: set[int] = set()

    def begun(self, word: str, numbers: tuple[int, ...], seed: int) -> None:
        for number in numbers:
            # a cache block is not written where a durable one is
            if word != "cache" or number not in self._durable:
                self.may[number].add(seed or None)

    def done(self, word: str, numbers: tuple[int, ...], seed: int) -> None:
        for number in numbers:
            if word == "durable" or (word != "cache" and number in self._durable):
                self.may[number] = {seed or None}
        if word == "durable":
            self._durable.update(numbers)
        elif word != "cache":
            self._durable.difference_update(numbers)


def opened(folder: Path) -> DiskTier:
    tier = Disk(str(folder), 64 << 20).start(Lru())
    tier.open(departed)
    return tier


def do(tier: DiskTier, word: str, numbers: tuple[int, ...], seed: int) -> None:
    if word == "clear":
        assert tier.clear(A, soon()) is not None
    elif word == "delete":
        assert tier.delete_many(A, [KEYS[number] for number in numbers], soon()) == [True]
    else:
        durable = word == "durable"
        blocks = [(KEYS[number], sealed_block(A, KEYS[number], NBYTES, seed, durable=durable)) for number in numbers]
        assert tier.put_many(A, blocks, None, soon(), durable=durable) == [True] * len(numbers)


def found(folder: Path) -> list[int | None]:
    """Which content the next process finds of each block; what it finds is whole."""
    tier = opened(folder)
    try:
        seeds: list[int | None] = []
        for number, data in enumerate(tier.get_many(A, KEYS[:4], soon())):
            # a store looks at the checksums of what a tier hands it
            if not isinstance(data, np.ndarray) or not intact(header := Header.parse(data), data[header.size :]):
                seeds.append(None)
                continue
            seeds.append(header.sequence)
            whole = sealed_block(A, KEYS[number], NBYTES, header.sequence, durable=bool(header.flags & 8))
            assert np.array_equal(data, whole)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        assert tier.usage().used == sum(-(-size // 4096) * 4096 for size in sizes)
        return seeds
    finally:
        tier.close()


def lost_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: int) -> int:
    """How many states were looked at: so many after every system call of the history."""
    moments: list[tuple[Medium, dict[int, set[int | None]]]] = []
    promises = Promises()
    with watched(monkeypatch, lambda: moments.append((deepcopy(medium), deepcopy(promises.may)))) as medium:
        tier = opened(tmp_path / "blocks")
        for step in HISTORY:
            promises.begun(*step)
            do(tier, *step)
            promises.done(*step)
            moments.append((deepcopy(medium), deepcopy(promises.may)))
        tier.close()
    random, looked = Random(7), 0
    for at, (then, may) in enumerate(moments):
        for _ in range(states):
            folder = tmp_path / f"after-{looked}"
            then.lose_power(folder, random)
            for number, seed in enumerate(found(folder)):
                assert seed in may[number], f"after call {at} block {number} has {seed}, not one of {may[number]}"
            rmtree(folder)
            looked += 1
    return looked


def test_a_loss_of_power_leaves_whole_blocks_and_all_durable_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lost_at_every_call(tmp_path, monkeypatch, 1) > 60


@pytest.mark.slow
def test_any_loss_of_power_leaves_whole_blocks_and_all_durable_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lost_at_every_call(tmp_path, monkeypatch, 40) > 2500


@pytest.mark.parametrize("deaf", ["flush", "flush_names"])
def test_a_disk_that_flushes_nothing_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: str) -> None:
    monkeypatch.setattr(Medium, deaf, lambda self, what: None)
    with pytest.raises(AssertionError, match="not one of"):
        lost_at_every_call(tmp_path, monkeypatch, 1)
