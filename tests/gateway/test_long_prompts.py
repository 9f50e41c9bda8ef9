"""Prompts that are far too long: they cost a look at their beginning, and nobody else's time."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gateway.served import UNLIMITED, Served
from tests.gateway.conftest import END, byte_tokenizer

MOST = 1024
SERVED = Served("tiny", byte_tokenizer(), SimpleNamespace(), MOST, 257, frozenset({END}))  # type: ignore[arg-type]


def test_what_is_far_too_long_is_not_tokenised_to_its_end() -> None:
    text = "Once upon a time. " * 10_000
    found = SERVED.tokens(text)
    assert MOST < len(found) < len(text) / 4
    assert found == replace(SERVED, max_tokens=UNLIMITED).tokens(text)[: len(found)]


@pytest.mark.parametrize("length", [MOST - 1, MOST, MOST + 1, 4 * MOST, 16 * MOST])
def test_everything_else_is(length: int) -> None:
    assert len(SERVED.tokens("x" * length)) == length


def test_a_text_that_is_long_and_has_few_tokens_is_taken() -> None:
    words = byte_tokenizer()
    # many characters of one token: what the look finds is few, so the end is read too
    words.add_tokens(["y" * 64])
    found = replace(SERVED, tokenizer=words).tokens("y" * 64 * 400 + "x")
    assert len(found) == 401 and found[-1] == SERVED.tokens("x")[0]


def test_others_go_on_while_a_long_text_is_tokenised() -> None:
    served, text = replace(SERVED, max_tokens=UNLIMITED), "Once upon a time. " * 40_000
    with ThreadPoolExecutor(1) as beside:
        turns, work = 0, beside.submit(served.tokens, text)
        while not work.done():
            time.sleep(1e-3)
            turns += 1
        assert len(work.result()) == len(text)
    # with Python's lock held they would have one before it and one behind it
    assert turns > 10
