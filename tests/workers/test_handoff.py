"""A handoff on the wire, and handoffs of other prompts."""

from dataclasses import replace

import pytest

from cachestore.errors import Mismatch
from cachestore.hashing import Chain
from prefill_worker.handoff import Handoff, Reuse, handoff, handoff_message

KEYS = tuple(bytes([number]) * 32 for number in range(1, 5))
EXPECTED = Chain(bytes(32), KEYS[:3])
WHOLE = Handoff(Chain(bytes(32), KEYS), 5, b"lease", "127.0.0.1:1", 53, 7, Reuse(21, {"cpu": 32}))


def test_there_and_back() -> None:
    for value in (WHOLE, replace(WHOLE, chain=EXPECTED.first(0), tail_tokens=0, position=0, lease=b"")):
        assert handoff(handoff_message(value)) == value
    assert WHOLE.tail.keys == KEYS[3:] and WHOLE.leased().blocks == 4
    assert not len(replace(WHOLE, chain=EXPECTED, tail_tokens=0).tail)


def test_it_may_be_shorter_than_the_prompt() -> None:
    WHOLE.check(EXPECTED, 53, 16, 97)
    for blocks in range(4):
        replace(WHOLE, chain=EXPECTED.first(blocks), tail_tokens=0, position=16 * blocks).check(EXPECTED, 53, 16, 97)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chain": Chain(b"\1" * 32, KEYS)},
        {"chain": Chain(bytes(32), (KEYS[1], KEYS[0], *KEYS[2:]))},
        {"chain": Chain(bytes(32), (*KEYS, b"\7" * 32)), "position": 69},
        {"chain": EXPECTED, "position": 37},
        {"chain": EXPECTED.first(0), "position": 5},
        {"tail_tokens": 4, "position": 52},
        {"position": 48},
        {"first_token": 97},
    ],
)
def test_a_handoff_of_another_prompt(wrong: dict[str, object]) -> None:
    with pytest.raises(Mismatch):
        replace(WHOLE, **wrong).check(EXPECTED, 53, 16, 97)
