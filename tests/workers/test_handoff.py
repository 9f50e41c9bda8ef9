"""What a prefill worker tells, on the wire."""

import pytest

from prefill_worker.handoff import Begun, Handoff, Progress, Told, told, told_message
from prefill_worker.token import Reuse, Token


@pytest.mark.parametrize(
    "value",
    [
        Begun("127.0.0.1:1"),
        Progress(0),
        Progress(77),
        Token(7, 0, Reuse(21, {"cpu": 32}), -0.5, ((7, -0.5), (3, -1.5))),
        Token(7, 0, Reuse(21)),
        Handoff(b"lease", 3),
        Handoff(b"", 0),
    ],
)
def test_there_and_back(value: Told) -> None:
    assert told(told_message(value)) == value
