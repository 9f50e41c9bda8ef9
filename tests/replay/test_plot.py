"""The picture, and what is said where there can be none."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cachestore.errors import ConfigError
from cachestore.replay.alone import Alone
from cachestore.replay.comparing import compare
from cachestore.replay.plot import check_plot, draw
from cachestore.replay.trace import Trace

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "capacities"), [("trace.jsonl", [2]), ("a$b_$x^{.jsonl", [1, 10, 100]), ("会話.jsonl", [1, 10, 100])]
)
def test_picture(conversations: Trace, tmp_path: Path, capacities: Sequence[int], name: str) -> None:
    trace, path = replace(conversations, name=name), tmp_path / "hits.png"
    rows = list(compare(trace, ["lru"], capacities, Alone(), lambda blocks: None))
    check_plot(path)
    draw(rows, trace, path)
    assert path.read_bytes().startswith(PNG)
    # LRU is drawn as a yardstick where it is none of the policies
    draw([replace(row, policy="other") for row in rows], trace, path)
    assert path.read_bytes().startswith(PNG)


def test_places_without_a_picture(tmp_path: Path, traced: Callable[..., Trace]) -> None:
    with pytest.raises(ConfigError, match=r"hits\.pdf must be a \.png file"):
        check_plot(tmp_path / "hits.pdf")
    with pytest.raises(ConfigError, match="there is no folder"):
        check_plot(tmp_path / "none" / "hits.png")
    trace, folder = traced([1], [1]), tmp_path / "folder.png"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"cannot write .*folder\.png: Is a directory"):
        draw(list(compare(trace, ["lru"], [1], Alone(), lambda blocks: None)), trace, folder)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'kv-cachestore\[plot\]'"):
        check_plot(tmp_path / "hits.png")
