"""N7: a reservation in which one bit is wrong reserves nothing that was not meant."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product

import pytest

from cachestore.errors import Aborted
from cachestore.service.convert_put import Reservation, reserve_message
from cachestore.store.base import Durability
from cachestore.testing import plans_of
from tests.faults.calls import putting
from tests.faults.injections import UP, Injection
from tests.faults.values import prompt, right
from tests.faults.wire import SMALL, Wire


@dataclass(eq=False)
class FlipIn(Injection):
    """One bit is wrong where `message` goes by."""

    message: bytes = b""
    at: int = 0
    bit: int = 0

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        start = data.find(self.message)
        if start >= 0:
            self.acted += 1
            place = start + self.at
            data = data[:place] + bytes([data[place] ^ 1 << self.bit]) + data[place + 1 :]
        yield data


KEYS, BLOCKS = prompt(SMALL, 2)
PUT = Reservation(KEYS.fingerprint, tuple(plans_of(BLOCKS)), Durability.CACHE, None, after=bytes(range(32)))
RESERVE = reserve_message(PUT).SerializeToString()


def stored(wired: Wire) -> int:
    """How many of the blocks are there, as they were meant; and nothing else is."""
    with wired.direct.read(KEYS) as reading:
        got = [block for block, _ in reading]
    assert all(right(block) and block.token_count == SMALL.block_tokens for block in got)
    assert len(list(wired.tiered.index.everything())) == len(got)
    return len(got)


def flipped(wired: Wire, places: list[tuple[int, int]]) -> None:
    for at, bit in places:
        with wired.client() as store, wired.proxy.inject(FlipIn(UP, message=RESERVE, at=at, bit=bit)):
            putting(store, KEYS, BLOCKS, 2.0, after=PUT.after)
        wired.at_rest()
        # where all went well, what was wrong was the check's own tag
        assert stored(wired) in (0, 2), (at, bit)
        wired.direct.delete(KEYS)


def test_n7_some_wrong_bit_in_a_reservation_spoils_no_name(wired: Wire) -> None:
    flipped(wired, random.Random(3).sample(list(product(range(len(RESERVE)), range(8))), 12))


@pytest.mark.slow
def test_n7_any_wrong_bit_in_a_reservation_spoils_no_name(wired: Wire) -> None:
    flipped(wired, list(product(range(len(RESERVE)), range(8))))


@pytest.mark.parametrize("what", ["key", "fingerprint", "token_count", "after"])
def test_n7_a_reservation_of_something_else_is_to_be_sent_again(wired: Wire, what: str) -> None:
    key = KEYS.keys[1]
    place = {
        "key": RESERVE.index(key) + 5,
        "fingerprint": RESERVE.index(KEYS.fingerprint) + 5,
        "token_count": RESERVE.index(key) + len(key) + 1,
        "after": RESERVE.index(bytes(range(32))) + 5,
    }[what]
    with wired.client() as store, wired.proxy.inject(FlipIn(UP, message=RESERVE, at=place)):
        assert isinstance(putting(store, KEYS, BLOCKS, after=PUT.after), Aborted)
    assert stored(wired) == 0
    assert putting(wired.store, KEYS, BLOCKS, after=PUT.after) == ["stored"] * 2
    assert stored(wired) == 2
