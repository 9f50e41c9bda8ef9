"""Blocks that several puts write together, in a store of this process: any shares in any order, and what is left."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise, product
from random import Random
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachestore.codecs import create
from cachestore.metrics import total
from cachestore.seal import ALIGN, Header
from cachestore.store.base import PutStatus, Store
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same
from cachestore.testing.joint import EIGHT, JointPutTests, put_groups, ranks, write_groups

Opener = Callable[..., TieredStore]
T = TypeVar("T")


class TestJointPuts(JointPutTests):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with compose({"tiers": [{"name": "cpu", "capacity": "32MiB"}]}) as tiered:
            yield tiered.namespace("tests")
            tiered.check()
            tiered.namespace("tests").clear()
            assert tiered.memory.usage().used == 0


@pytest.fixture
def tiered(open_store: Opener) -> TieredStore:
    return open_store()


def shares(random: Random) -> list[range]:
    """Any cut of eight head groups, in any order."""
    cuts = [0, *sorted(random.sample(range(1, 8), random.randrange(8))), 8]
    return shuffled(random, [range(start, stop) for start, stop in pairwise(cuts)])


def shuffled(random: Random, items: Iterable[T]) -> list[T]:
    """All of them in any order."""
    items = list(items)
    return random.sample(items, len(items))


KEYS, BLOCKS = random_prompt(EIGHT, 2)
ANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY
@given(seed=st.integers(0, 1 << 32))
def test_any_shares_in_any_order_publish_exactly_the_bytes(tiered: TieredStore, seed: int) -> None:
    random, store = Random(seed), tiered.namespace("a")
    store.clear()
    cut = shares(random)
    with ExitStack() as held:
        puts = []
        for groups in cut:
            codec = create(random.choice(["raw", "lz4", "entropy"]))
            puts.append(held.enter_context(store.put(KEYS.fingerprint, plans_of(BLOCKS), groups=groups, codec=codec)))
        writes = []
        for put, groups in zip(puts, cut, strict=True):
            for number, block in enumerate(BLOCKS):
                own = [data for plane, data in zip(block.planes, block.data, strict=True) if plane.group in groups]
                writes += [partial(put.write, number, plane, data) for plane, data in enumerate(own)]
        for write in shuffled(random, writes):
            write()
        commits = shuffled(random, product(puts, range(len(BLOCKS))))
        for at, (put, number) in enumerate(commits):
            put.commit([number])
            last = all(other != number for _, other in commits[at + 1 :])
            assert put.answers[number].status == (PutStatus.STORED if last else PutStatus.IN_PROGRESS)
    with store.read(KEYS) as reading:
        assert [same(found, wanted) for (found, _), wanted in zip(reading, BLOCKS, strict=True)] == [True, True]
    # nothing lies between the planes but what aligns them
    for entry in tiered.index.everything():
        header = Header.parse(entry.slot.bytes)
        table = np.sort(header.table, order="offset")
        ends = table["offset"] + table["stored_bytes"]
        assert (table["offset"][1:] - ends[:-1] < ALIGN).all() and header.payload_bytes - int(ends[-1]) < ALIGN


@ANY
@given(seed=st.integers(0, 1 << 32))
def test_if_one_fails_nothing_is_half_there(tiered: TieredStore, seed: int) -> None:
    random, store = Random(seed), tiered.namespace("a")
    store.clear()
    cut = shares(random)
    bad, how = random.randrange(len(cut)), random.choice(["aborted", "incomplete", "never written", "never committed"])
    with ExitStack() as held:
        puts = [held.enter_context(store.put(KEYS.fingerprint, plans_of(BLOCKS), groups=groups)) for groups in cut]
        for number in shuffled(random, range(len(cut))):
            put, own = puts[number], cut[number]
            if number != bad or how == "never committed":
                write_groups(put, BLOCKS, own)
            elif how == "incomplete":
                chosen = zip(BLOCKS[0].planes, BLOCKS[0].data, strict=True)
                put.write(0, 0, next(data for plane, data in chosen if plane.group in own))
            if number == bad and how == "aborted":
                put.abort()
            elif number != bad or how != "never committed":
                put.commit()
                assert {answer.status for answer in put.answers} <= {PutStatus.IN_PROGRESS, PutStatus.FAILED}
        assert store.lookup(KEYS).ready == 0
    assert store.lookup(KEYS).writing == 0
    # and all of them may begin anew
    statuses = [put_groups(store, KEYS.fingerprint, BLOCKS, groups) for groups in ranks(4)]
    assert statuses[-1] == [PutStatus.STORED] * 2
    with store.read(KEYS) as reading:
        assert all(same(found, wanted) for (found, _), wanted in zip(reading, BLOCKS, strict=True))


def test_blocks_without_room_in_memory_go_below(open_store: Opener) -> None:
    tiered = open_store(memory="64KiB", redis={}, staging="1MiB")
    store = tiered.namespace("a")
    keys, blocks = random_prompt(EIGHT, 12)
    with store.put(keys.fingerprint, plans_of(blocks), groups=range(0, 3)) as one:
        write_groups(one, blocks, range(0, 3))
        one.commit()
        # in its commit the last one is asked for what memory has no room for
        assert put_groups(store, keys.fingerprint, blocks, range(3, 8)) == [PutStatus.STORED] * 12
    assert total(store.stats(), "put_stored", tier="redis") > 0
    with store.read(keys) as reading:
        assert [same(found, wanted) for (found, _), wanted in zip(reading, blocks, strict=True)] == [True] * 12
    assert tiered.staging.usage().used == 0
