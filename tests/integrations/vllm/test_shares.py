"""A load that vLLM's connector shares out among its threads: whole, or as far as it holds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from cachestore.errors import Unavailable
from cachestore.hashing import Chain
from cachestore.integrations import vllm_loading
from cachestore.store.base import Reading
from cachestore.store.tiered import TieredStore
from tests.integrations.conftest import Served
from tests.integrations.vllm.engine import Make, asked, prompt

pytestmark = pytest.mark.slow


class Told:
    """A store that keeps how many blocks each read asked for, the first of which takes longer than the others."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.reads: list[int] = []

    @contextmanager
    def read(self, chain: Chain, **more: Any) -> Iterator[Reading]:
        self.reads.append(len(chain))
        time.sleep(0.1 if len(self.reads) == 1 else 0.0)
        with self._store.read(chain, **more) as reading:
            yield reading


class Gone:
    """A store that nobody reaches any more."""

    def read(self, chain: Chain, **more: Any) -> Reading:
        raise Unavailable("nobody is there any more")


@pytest.mark.parametrize("threads, shares", [(1, [4]), (2, [2, 2]), (3, [1, 1, 2]), (9, [1, 1, 1, 1])])
def test_every_share_comes(engine: Make, monkeypatch: pytest.MonkeyPatch, threads: int, shares: list[int]) -> None:
    monkeypatch.setattr(vllm_loading, "SHARE", 1)
    one, shared = engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"threads": threads, "mirror": False})
    loads = two.workers.connectors[0]._transfer.loads
    loads.store = told = Told(loads.store)
    assert asked(two, "a", shared) == 303 - 256
    assert sorted(told.reads) == shares and two.stats["loaded_blocks"] == 4


def test_little_is_not_shared_out(engine: Make) -> None:
    one, shared = engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"mirror": False})
    loads = two.workers.connectors[0]._transfer.loads
    loads.store = told = Told(loads.store)
    assert asked(two, "a", shared) == 303 - 256
    assert told.reads == [4]


@pytest.mark.parametrize("lost", range(4))
def test_a_block_that_is_damaged_in_its_middle_is_computed_and_those_behind_it(
    engine: Make, served: Served, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr(vllm_loading, "SHARE", 1)
    one, shared = engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    _damage(served.store, lost)
    two = engine(extra={"mirror": False})
    # the workers compare every byte
    assert asked(two, "a", shared) == 303 - 64 * lost
    assert two.stats["lost_blocks"] == 4 - lost and two.stats.get("loaded_blocks", 0) == lost


def test_a_load_that_breaks_off_keeps_what_came(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one, shared = engine(), prompt(700)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"mirror": False})
    (taker,) = two.workers.connectors[0]._transfer.loads._takers[-1:]
    take = taker.take

    def breaking(block: int, piece: int) -> None:
        if block == 8:
            raise Unavailable("nobody is there any more")
        take(block, piece)

    monkeypatch.setattr(taker, "take", breaking)
    computed, came = asked(two, "a", shared), two.stats["loaded_blocks"]
    # those before the part of the read that broke, which is as large as the blocks happened to be put together
    assert 0 < came <= 8 and computed == 703 - came * 64
    assert two.stats["load_failures"] == 1 and two.stats["lost_blocks"] == 10 - came


def test_a_load_whose_shares_all_break_is_one_failure(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_loading, "SHARE", 1)
    one, shared = engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"mirror": False})
    two.workers.connectors[0]._transfer.loads.store = Gone()
    assert asked(two, "a", shared) == 303
    assert two.stats["load_failures"] == 1 and two.stats["lost_blocks"] == 4


def _damage(tiered: TieredStore, number: int) -> None:
    """Changes a byte in the middle of the block of this number, in the order in which they were put."""
    entries = list(tiered.index.all_of(tiered.namespace("default").namespace).values())
    assert len(entries) == 4
    slot = entries[number].slot
    slot.bytes[(slot.nbytes + 3000) // 2] ^= 1
