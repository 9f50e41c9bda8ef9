"""Ends of sequences: tokens, strings, length, and text that waits until it is known."""

from collections.abc import Sequence

import pytest

from cachestore.engine.stopping import Finish, Stop, Stopping
from cachestore.errors import InvalidArgument

END = 0


def decode(tokens: Sequence[int]) -> str:
    """A tokenizer of single bytes: characters may take several tokens."""
    return bytes(tokens).decode("utf-8", "replace")


def fed(text: str, stop: Stop) -> tuple[Stopping, list[str]]:
    stopping = Stopping(stop, decode)
    parts = []
    for token in text.encode():
        parts.append(stopping.add(token))
        if stopping.finish is not None:
            break
    return stopping, parts


def test_a_string_ends_it_and_is_not_shown() -> None:
    stopping, parts = fed("one two three", Stop(50, strings=("two", "xyz")))
    assert (stopping.text, stopping.finish, "".join(parts)) == ("one ", Finish.STOP, "one ")
    assert len(stopping.tokens) == 7


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    stopping, parts = fed("a aab aaac", Stop(50, strings=("aaac",)))
    assert parts == ["", "a ", "", "", "aab", " ", "", "", "", ""]
    assert stopping.text == "a aab "


def test_the_earliest_string_wins() -> None:
    assert fed("say hello", Stop(50, strings=("ello", "hell")))[0].text == "say "


def test_what_was_held_back_is_shown_at_the_end() -> None:
    stopping, parts = fed("half st", Stop(7, strings=("stop",)))
    assert (stopping.text, stopping.finish, parts[-1]) == ("half st", Finish.LENGTH, "st")
    stopping, _ = fed("half st\0", Stop(50, frozenset({END}), ("stop",)))
    assert (stopping.text, stopping.finish) == ("half st", Finish.STOP)


def test_a_character_is_shown_when_it_is_whole() -> None:
    stopping, parts = fed("é€x", Stop(50))
    assert parts == ["", "é", "", "", "€", "x"]
    assert fed("é", Stop(1))[0].text == "\N{REPLACEMENT CHARACTER}"
    assert stopping.finish is None


def test_nothing_comes_behind_the_end() -> None:
    stopping, _ = fed("x", Stop(1))
    with pytest.raises(InvalidArgument, match="ended"):
        stopping.add(65)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"max_tokens": 0}, "max_tokens"), ({"strings": ("",)}, "stop"), ({"strings": ("a",) * 17}, "stop")],
)
def test_stops_that_cannot_be_meant(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Stop(**{"max_tokens": 1, **wrong})  # type: ignore[arg-type]
