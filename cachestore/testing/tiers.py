"""What every tier promises that holds sealed blocks by key."""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.testing.sealed import sealed_block
from cachestore.tiers.base import ColdTier, Departure, Found

A, B = b"a" * 32, b"b" * 32
KEYS = [bytes([number]) * 32 for number in range(8)]


def departed(departures: Sequence[Departure]) -> None:
    """For who does not look at what a tier lets go."""


def soon() -> Deadline:
    """Later than what ought to be done takes on any machine."""
    return Deadline.after(30)


def value(number: int, nbytes: int = 1000, namespace: bytes = A) -> Buffer:
    return sealed_block(namespace, KEYS[number], nbytes, number)


def equal(found: Found, block: Buffer) -> bool:
    return isinstance(found, np.ndarray) and np.array_equal(found, block)


class TierTests:
    """Subclasses give the fixture `tier`: open, empty, healthy, with room for 16 MiB."""

    @pytest.fixture
    def tier(self) -> Iterator[ColdTier]:
        raise NotImplementedError("give the suite a fixture `tier` that yields an open, empty tier")

    def put(self, tier: ColdTier, namespace: bytes, *numbers: int) -> None:
        blocks = [(KEYS[number], value(number, namespace=namespace)) for number in numbers]
        assert tier.put_many(namespace, blocks, None, soon()) == [True] * len(numbers)

    def test_what_was_put_is_got(self, tier: ColdTier) -> None:
        self.put(tier, A, 0, 1, 3)
        got = tier.get_many(A, KEYS[:4], soon())
        assert [data is not None for data in got] == [True, True, False, True]
        assert all(equal(got[number], value(number)) for number in (0, 1, 3))
        assert tier.healthy and tier.name

    def test_presence(self, tier: ColdTier) -> None:
        self.put(tier, A, 0, 1, 3)
        assert tier.present(A, KEYS[:4], soon()) == [True, True, False, True]
        for keys, leading in ((KEYS, 2), (KEYS[:2], 2), (KEYS[2:], 0), (KEYS[3:], 1), (KEYS[5:], 0), ([], 0)):
            assert tier.leading(A, keys, soon()) == leading

    def test_nothing_asked_is_nothing_answered(self, tier: ColdTier) -> None:
        assert tier.get_many(A, [], soon()) == [] == tier.present(A, [], soon())
        assert tier.put_many(A, [], None, soon()) == [] == tier.delete_many(A, [], soon())
        assert tier.clear(A, soon()) == set() and tier.healthy

    def test_a_second_put_replaces(self, tier: ColdTier) -> None:
        self.put(tier, A, 0)
        other = sealed_block(A, KEYS[0], 2000, seed=9)
        assert tier.put_many(A, [(KEYS[0], other)], None, soon()) == [True]
        assert equal(tier.get_many(A, KEYS[:1], soon())[0], other)

    def test_delete(self, tier: ColdTier) -> None:
        self.put(tier, A, 0, 1, 2)
        assert tier.delete_many(A, [KEYS[0], KEYS[5], KEYS[2]], soon()) == [True, False, True]
        assert tier.present(A, KEYS[:3], soon()) == [False, True, False]

    def test_namespaces_never_see_each_other(self, tier: ColdTier) -> None:
        self.put(tier, A, 0, 1)
        self.put(tier, B, 1, 2)
        assert tier.present(B, KEYS[:3], soon()) == [False, True, True]
        assert tier.get_many(B, KEYS[:1], soon()) == [None]
        assert tier.delete_many(B, KEYS[:2], soon()) == [False, True]
        assert tier.clear(B, soon()) == {KEYS[2]}
        assert tier.present(A, KEYS[:3], soon()) == [True, True, False]

    def test_clear_takes_all_of_one_namespace(self, tier: ColdTier) -> None:
        names = [number.to_bytes(32, "big") for number in range(2500)]
        many = [(name, sealed_block(A, name, 500)) for name in names]
        assert all(tier.put_many(A, many, None, soon()))
        self.put(tier, B, 0)
        assert tier.clear(A, soon()) == {key for key, _ in many} and tier.clear(A, soon()) == set()
        assert tier.present(B, KEYS[:1], soon()) == [True]

    def test_large_blocks_in_one_batch(self, tier: ColdTier) -> None:
        blocks = [(key, value(number, 3 << 20)) for number, key in enumerate(KEYS[:4])]
        assert tier.put_many(A, blocks, None, soon()) == [True] * 4
        got = tier.get_many(A, KEYS[:4], soon())
        assert all(equal(data, block) for data, (_, block) in zip(got, blocks, strict=True))

    def test_a_block_does_not_outlive_its_time(self, tier: ColdTier) -> None:
        assert tier.put_many(A, [(KEYS[0], value(0)), (KEYS[1], value(1))], 0.05, soon()) == [True, True]
        self.put(tier, A, 2)
        until = soon()
        while tier.present(A, KEYS[:3], soon()) != [False, False, True]:
            until.check("waiting for a block to go")
            time.sleep(0.005)
        assert tier.leading(A, KEYS[:3], soon()) == 0

    def test_after_the_deadline_nothing_is_known_and_nothing_raised(self, tier: ColdTier) -> None:
        self.put(tier, A, 0)
        over = Deadline(time.monotonic() - 1)
        assert tier.get_many(A, KEYS[:1], over) == [None] and tier.present(A, KEYS[:1], over) == [False]
        assert tier.leading(A, KEYS[:1], over) == 0 and tier.put_many(A, [(KEYS[1], value(1))], None, over) == [False]
        assert tier.delete_many(A, KEYS[:1], over) is None and tier.clear(A, over) is None
        assert tier.healthy and tier.present(A, KEYS[:2], soon()) == [True, False]

    def test_usage_grows_and_closing_twice_is_allowed(self, tier: ColdTier) -> None:
        before = tier.usage()
        tier.put_many(A, [(KEYS[0], value(0, 1 << 20))], None, soon())
        assert before.used + (1 << 20) <= tier.usage().used <= tier.usage().capacity
        tier.close()
        tier.close()
        assert tier.get_many(A, KEYS[:1], soon()) == [None]
