"""What every tier promises that keeps blocks for good."""

import time
from contextlib import AbstractContextManager
from typing import Protocol

import pytest

from cachestore.block import Buffer
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import KEYS, A, B, equal, soon, value
from cachestore.tiers.base import ColdTier, Keeping

LIFETIME = 0.3
"""Seconds that a block lives here which is to end."""


class Medium(Protocol):
    """What a tier keeps blocks in."""

    def open(self) -> ColdTier:
        """A tier on it, after the one before ended and whatever process holds the medium was killed and came back."""

    def unsynced(self) -> AbstractContextManager[object]:
        """Inside, what is written is not made to survive. Puts of two calls at most are tried then."""


class DurableTierTests:
    """Subclasses give the fixture `medium`, empty, with room for 16 MiB, and end what they open."""

    @pytest.fixture
    def medium(self) -> Medium:
        raise NotImplementedError("give the suite a fixture `medium` that opens tiers on one empty medium")

    def block(self, number: int, seconds: float = 0.0, namespace: bytes = A) -> tuple[bytes, Buffer]:
        """A durable block, which ends in so many seconds if at all."""
        expires = round((time.time() + seconds) * 1000) if seconds else 0
        return KEYS[number], sealed_block(namespace, KEYS[number], 1000, number, expires=expires, durable=True)

    def keep(self, tier: ColdTier, *blocks: tuple[bytes, Buffer], namespace: bytes = A) -> list[bool]:
        return tier.put_many(namespace, blocks, None, soon(), durable=True)

    def test_what_was_acknowledged_is_there_after_a_restart(self, medium: Medium) -> None:
        tier = medium.open()
        large = sealed_block(A, KEYS[2], 3 << 20, 2, durable=True)
        assert tier.durable and self.keep(tier, self.block(0), self.block(1), (KEYS[2], large)) == [True] * 3
        assert self.keep(tier, self.block(1, namespace=B), namespace=B) == [True]
        for _ in range(2):
            tier = medium.open()
            assert tier.present(A, KEYS[:4], soon()) == [True, True, True, False]
            got = tier.get_many(A, KEYS[:3], soon())
            assert equal(got[0], self.block(0)[1]) and equal(got[1], self.block(1)[1]) and equal(got[2], large)
            assert tier.present(B, KEYS[:2], soon()) == [False, True]

    def test_a_cache_block_becomes_durable(self, medium: Medium) -> None:
        tier = medium.open()
        assert tier.put_many(A, [(KEYS[0], value(0))], 60.0, soon()) == [True]
        assert self.keep(tier, self.block(0)) == [True]
        assert equal(medium.open().get_many(A, KEYS[:1], soon())[0], self.block(0)[1])

    def test_a_cache_block_takes_no_durable_ones_place(self, medium: Medium) -> None:
        tier = medium.open()
        assert self.keep(tier, self.block(0)) == [True]
        assert tier.put_many(A, [(KEYS[0], value(0))], 0.05, soon()) == [True]
        time.sleep(0.1)
        assert tier.present(A, KEYS[:1], soon()) == [True]
        assert equal(medium.open().get_many(A, KEYS[:1], soon())[0], self.block(0)[1])

    def test_what_is_not_made_to_survive_is_refused_and_leaves_nothing(self, medium: Medium) -> None:
        tier = medium.open()
        assert self.keep(tier, self.block(0)) == [True]
        with medium.unsynced():
            assert self.keep(tier, self.block(1)) == [False]
            # one that is there already stays whatever becomes of the second put
            self.keep(tier, self.block(0))
        assert tier.present(A, KEYS[:2], soon()) == [True, False] == medium.open().present(A, KEYS[:2], soon())

    def test_it_leaves_by_its_time(self, medium: Medium) -> None:
        tier = medium.open()
        assert self.keep(tier, self.block(0, LIFETIME), self.block(1, 60.0), self.block(2)) == [True] * 3
        until = soon()
        while tier.present(A, KEYS[:3], soon()) != [False, True, True]:
            until.check("waiting for a block to go")
            time.sleep(0.005)
        assert [found is not None for found in tier.get_many(A, KEYS[:3], soon())] == [False, True, True]
        assert medium.open().present(A, KEYS[:3], soon()) == [False, True, True]

    def test_what_ended_while_nobody_was_there_is_gone(self, medium: Medium) -> None:
        assert self.keep(medium.open(), self.block(0, LIFETIME), self.block(1)) == [True, True]
        time.sleep(LIFETIME)
        tier = medium.open()
        assert tier.present(A, KEYS[:2], soon()) == [False, True] and tier.get_many(A, KEYS[:1], soon()) == [None]

    def test_it_leaves_by_delete_and_by_clear(self, medium: Medium) -> None:
        tier = medium.open()
        assert self.keep(tier, *map(self.block, range(3))) == [True] * 3
        assert self.keep(tier, self.block(4, namespace=B), namespace=B) == [True]
        assert tier.delete_many(A, [KEYS[1], KEYS[5]], soon()) == [True, False]
        tier = medium.open()
        assert tier.present(A, KEYS[:3], soon()) == [True, False, True]
        assert tier.clear(A, soon()) == {KEYS[0], KEYS[2]}
        tier = medium.open()
        assert tier.present(A, KEYS[:3], soon()) == [False] * 3 and tier.present(B, KEYS[4:5], soon()) == [True]
        assert self.keep(tier, self.block(1)) == [True] and tier.present(A, KEYS[:3], soon()) == [False, True, False]

    def test_a_corrupt_one_stays_until_it_is_replaced_or_lost(self, medium: Medium) -> None:
        tier = medium.open()
        assert self.keep(tier, self.block(0), self.block(1)) == [True, True]
        assert tier.put_many(A, [(KEYS[2], value(2))], None, soon()) == [True]
        assert tier.delete_many(A, KEYS[:3], soon(), why="corrupt") == [False, False, True]
        assert tier.delete_many(A, KEYS[:1], soon(), why="lost") == [True]
        assert tier.present(A, KEYS[:3], soon()) == [False, True, False]

    def test_what_is_withdrawn_goes(self, medium: Medium) -> None:
        tier = medium.open()
        assert self.keep(tier, self.block(0), self.block(1)) == [True, True]
        assert tier.delete_many(A, KEYS[:1], soon(), why="withdrawn") == [True]
        assert medium.open().present(A, KEYS[:2], soon()) == [False, True]

    def test_what_it_keeps_is_what_the_quota_counts(self, medium: Medium) -> None:
        tier = medium.open()
        assert isinstance(tier, Keeping) and tier.durable_bytes(A) == 0
        lasting, ending = self.block(0), self.block(1, LIFETIME)
        assert tier.put_many(A, [(KEYS[2], value(2))], None, soon()) == [True] and tier.durable_bytes(A) == 0
        assert self.keep(tier, lasting) == [True]
        one = tier.durable_bytes(A)
        # what it adds to a block is its own
        assert lasting[1].nbytes <= one <= lasting[1].nbytes + 1024
        assert self.keep(tier, lasting, ending) == [True, True]
        assert one < tier.durable_bytes(A) <= one + ending[1].nbytes + 1024 and tier.durable_bytes(B) == 0
        assert tier.kept(A, KEYS[:3]) == [True, True, False] == tier.kept(A, KEYS[:3], time.time())
        assert tier.kept(A, KEYS[:3], time.time() + 60) == [True, False, False]
        until = soon()
        while tier.durable_bytes(A) != one:
            until.check("waiting for a block to count no longer")
            time.sleep(0.005)
        assert tier.kept(A, KEYS[:2]) == [True, False]
        assert tier.delete_many(A, KEYS[:1], soon()) == [True] and tier.durable_bytes(A) == 0
        assert self.keep(tier, lasting) == [True] and KEYS[0] in (tier.clear(A, soon()) or ())
        assert tier.durable_bytes(A) == 0 and tier.kept(A, KEYS[:2]) == [False, False]
