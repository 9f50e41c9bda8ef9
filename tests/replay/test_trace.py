"""Reading traces: good ones, and what is said about bad ones."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cachestore.errors import ConfigError
from cachestore.replay.trace import parse, read_trace

GOOD = {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [70, 71]}


def test_nodes_are_numbered_as_they_come() -> None:
    lines = [GOOD, {**GOOD, "hash_ids": [70, 9]}, {"hash_ids": []}, {"hash_ids": [1 << 80]}]
    read = parse("a", [json.dumps(line).encode() for line in lines] + [b"\n"])
    assert read.requests == [(0, 1), (0, 2), (), (3,)]
    assert (read.name, read.nodes, read.blocks) == ("a", 4, 5)


def test_file_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\r\n\n{json.dumps(GOOD)}")
    read = read_trace(str(path))
    assert read.name == "trace.jsonl" and read.requests == [(0, 1), (0, 1)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert read_trace("-").requests == read.requests


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe\x00\xd8", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1, 2]", "must be an object with hash_ids"),
        (b"{}", "hash_ids is missing"),
        ({**GOOD, "hash_ids": None}, "hash_ids must be a list of integers, got null"),
        ({**GOOD, "hash_ids": {"a": 1}}, "hash_ids must be a list of integers, got an object"),
        ({**GOOD, "hash_ids": [70, "71"]}, 'hash_ids[1] must be an integer, got "71"'),
        ({**GOOD, "hash_ids": [70, 71.0]}, "hash_ids[1] must be an integer, got 71.0"),
        ({**GOOD, "hash_ids": [True]}, "hash_ids[0] must be an integer, got true"),
        ({**GOOD, "hash_ids": [[]]}, "hash_ids[0] must be an integer, got a list"),
        ({**GOOD, "hash_ids": ["x" * 1000]}, "xxx..."),
        ({**GOOD, "hash_ids": [71]}, "hash_ids[0] = 71 had another parent before"),
        ({**GOOD, "hash_ids": [70, 72, 71]}, "hash_ids[2] = 71 had another parent before"),
        ({**GOOD, "hash_ids": [70, 70]}, "hash_ids[1] = 70 had another parent before"),
        ({**GOOD, "timestamp": "now"}, 'timestamp must be a number, 0 or more, got "now"'),
        ({**GOOD, "input_length": -1}, "input_length must be a number, 0 or more, got -1"),
        (b'{"hash_ids": [70], "output_length": NaN}', "output_length must be a number, 0 or more, got NaN"),
    ],
)
def test_bad_lines_are_named(line: Any, said: str) -> None:
    text = line if isinstance(line, bytes) else json.dumps(line).encode()
    with pytest.raises(ConfigError) as refused:
        parse("my.jsonl", [json.dumps(GOOD).encode(), b"", text])
    assert str(refused.value).startswith("my.jsonl, line 3: ") and said in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("content", ["", "\n\n", '{"hash_ids": []}\n'])
def test_a_trace_without_blocks(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"trace\.jsonl has no blocks"):
        read_trace(str(path))


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(ConfigError, match="cannot read the trace"):
            read_trace(str(path))
