"""Text out of tokens: whole characters, stop strings cut exactly, and nothing held back at the end."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.engine.stopping import Stop
from cachestore.wire import worker_pb2 as wire
from gateway.errors import ApiError
from gateway.prompts import Asked
from gateway.served import Served
from gateway.text import Choice, Piece
from tests.gateway.conftest import END, byte_tokenizer

WORDS = byte_tokenizer()
SERVED = Served("tiny", WORDS, SimpleNamespace(), 1024, 257, frozenset({END}))  # type: ignore[arg-type]
TEXTS = st.text(st.sampled_from("abcé漢🎉 \n"), max_size=30)


def choice(most: int = 1000, stops: Sequence[str] = (), logprobs: int | None = None) -> Choice:
    stop = Stop(most, frozenset({END}), tuple(stops))
    return Choice(SERVED, Asked([1], wire.Sampling(), stop, logprobs))


def played(one: Choice, tokens: Sequence[int]) -> list[Piece]:
    pieces = []
    for token in tokens:
        pieces.append(one.add(wire.Token(id=token)))
        if one.finished:
            break
    return pieces


@given(TEXTS, TEXTS)
def test_characters_come_whole(text: str, behind: str) -> None:
    tokens = [*WORDS.encode(text + behind), END]
    pieces = played(choice(), tokens)
    assert "".join(piece.text for piece in pieces) == text + behind
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert [piece.finish for piece in pieces if piece.finish] == ["stop"]


@given(TEXTS, st.lists(st.text(st.sampled_from("abé漢"), min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_cuts_where_it_begins_first(text: str, stops: list[str]) -> None:
    pieces = played(choice(stops=stops), [*WORDS.encode(text), END])
    # the string that is whole first ends it; of several with the same end the longest
    ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
    expected = (
        text
        if not ends
        else min(text[: text.find(stop)] for stop in stops if text.find(stop) + len(stop) == min(ends) and stop in text)
    )
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].finish == "stop"


def test_half_a_character_at_the_very_end_is_told() -> None:
    tokens = WORDS.encode("a漢")[:-1]
    pieces = played(choice(most=len(tokens)), tokens)
    assert "".join(piece.text for piece in pieces) == "a\ufffd" and pieces[-1].finish == "length"


def test_what_was_held_back_comes_when_the_worker_ends_early() -> None:
    one = choice(stops=["abc"])
    pieces = played(one, WORDS.encode("xab"))
    assert "".join(piece.text for piece in pieces) == "x"
    assert one.end("length") == Piece("ab", None, "length") and one.finished


def test_logprobs_name_tokens_as_text() -> None:
    one = choice(logprobs=1)
    token = wire.Token(id=WORDS.encode("a")[0], logprob=-0.5)
    token.top.add(id=WORDS.encode("b")[0], logprob=-0.25)
    told: Any = one.add(token).told
    assert (told.drawn.text, told.drawn.logprob, told.drawn.bytes) == ("a", -0.5, [97])
    assert [(chance.text, chance.logprob) for chance in told.top] == [("b", -0.25)]
    half = WORDS.encode("漢")[0]
    assert one.add(wire.Token(id=half, logprob=-1.0)).told.drawn.bytes is None  # type: ignore[union-attr]


def test_probabilities_that_nobody_tells_are_no_zeroes() -> None:
    with pytest.raises(ApiError) as raised:
        choice(logprobs=0).add(wire.Token(id=5))
    assert raised.value.body["error"]["param"] == "logprobs"
