"""`cachestore replay`."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.cli.replay import MANY
from cachestore.eviction import EVICTIONS
from cachestore.replay.payload import Payloads

REQUESTS = [[1, 2], [1, 3], [1, 2]]
COLUMNS = {"capacity", "policy", "hit_rate", "lru", "optimum", "infinite", "gap", "blocks_per_second"}
CPU = '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n'


def lines(requests: list[list[int]]) -> str:
    return "".join(
        json.dumps({"timestamp": 0, "input_length": 512 * len(ids), "output_length": 1, "hash_ids": ids}) + "\n"
        for ids in requests
    )


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "small.jsonl"
    path.write_text(lines(REQUESTS))
    return str(path)


def test_index_only(command: Callable[..., Any], trace: str) -> None:
    told = command("replay", trace, "--index-only", "--policy", "lru", "--capacity", "3,2", "--json").object
    assert {name: told[name] for name in ("trace", "requests", "blocks", "index_only")} == {
        "trace": "small.jsonl", "requests": 3, "blocks": 6, "index_only": True,
    }  # fmt: skip
    assert all(row.keys() >= COLUMNS and row["blocks_per_second"] > 0 for row in told["rows"])
    assert [(row["capacity"], row["policy"], row["gap"]) for row in told["rows"]] == [(2, "lru", 0.0), (3, "lru", None)]
    assert [row[name] for row in told["rows"] for name in ("hit_rate", "lru", "optimum", "infinite")] == [
        2 / 6, 2 / 6, 3 / 6, 3 / 6, 3 / 6, 3 / 6, 3 / 6, 3 / 6,
    ]  # fmt: skip


def test_every_policy_if_none_is_named(command: Callable[..., Any], trace: str) -> None:
    told = command("replay", trace, "--index-only", "--capacity", "2", "--json").object
    assert [row["policy"] for row in told["rows"]] == EVICTIONS.names()


def test_through_the_store(command: Callable[..., Any], trace: str) -> None:
    told = command("replay", trace, "--policy", "lru", "--capacity", "2", "--block-bytes", "512", "--json").object
    (row,) = told["rows"]
    assert row["tiers"] == {"cpu": 2 / 6, "redis": 1 / 6} and row["hit_rate"] == 3 / 6 and row["lru"] == 2 / 6
    assert (row["wrong"], row["not_kept"], row["sums_hold"], told["index_only"]) == (0, 0, True, False)


def test_the_configuration_names_policy_and_tiers(
    command: Callable[..., Any], config: Callable[[str], str], trace: str
) -> None:
    given = config(CPU + '[eviction]\nname = "lru"\n')
    told = command("replay", trace, "--config", given, "--capacity", "1", "--json").object
    (row,) = told["rows"]
    assert row["policy"] == "lru" and row["tiers"] == {"cpu": 2 / 6}
    shown = command("replay", trace, "--config", given, "--capacity", "1")
    # of each request all but the first block, which alone fits
    assert "lru at 1: blocks that were not kept: 3" in shown.out


def test_what_people_see(command: Callable[..., Any], trace: str) -> None:
    shown = command("replay", trace, "--index-only", "--policy", "lru", "--capacity", "2")
    assert shown.status == 0 and shown.err == ""
    assert "small.jsonl: 3 requests, 6 blocks" in shown.out
    for word in ("33.33%", "50.00%", "0.00", "optimum", "infinite", "gap closed", "blocks/s"):
        assert word in shown.out
    through = command("replay", trace, "--policy", "lru", "--capacity", "2").out
    assert "in cpu" in through and "in redis" in through and "16.67%" in through


def test_a_bar_where_somebody_looks(trace: str) -> None:
    arguments = [sys.executable, "-m", "cachestore", "replay", trace, "--index-only", "--capacity", "2"]
    for flags, seen in (([], True), (["--json"], False)):
        mine, theirs = pty.openpty()
        subprocess.run([*arguments, *flags], stderr=theirs, stdout=subprocess.DEVNULL, check=True, timeout=60)
        os.write(theirs, b".")
        assert (b"replaying" in os.read(mine, 1 << 16)) is seen
        os.close(mine)
        os.close(theirs)


def test_standard_input(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines(REQUESTS).encode())))
    told = command("replay", "-", "--index-only", "--policy", "lru", "--capacity", "2", "--json").object
    assert told["trace"] == "standard input" and told["rows"][0]["hit_rate"] == 2 / 6


def test_plot(command: Callable[..., Any], tmp_path: Path) -> None:
    """Without capacities the picture has as many as it needs."""
    trace, picture = tmp_path / "long.jsonl", tmp_path / "hits.png"
    trace.write_text(lines([[request] for request in range(1000)]))
    told = command("replay", str(trace), "--index-only", "--policy", "lru", "--plot", str(picture), "--json").object
    assert len(told["rows"]) == MANY and picture.stat().st_size > 1000


def test_a_store_that_gives_wrong_blocks(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, trace: str
) -> None:
    """No store does, so the comparison is what is changed here."""
    monkeypatch.setattr(Payloads, "holds", lambda self, block, node: node != 0)
    done = command("replay", trace, "--policy", "lru", "--capacity", "9")
    assert done.status == 1 and "lru at 9: blocks that came back other than they were put: 2" in done.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--policy", "lrv"], "--policy: 'lrv' is unknown; did you mean 'lru'?"),
        (["--policy", "lru,"], "--policy: '' is unknown"),
        (["--capacity", "0"], "--capacity: a cache holds at least 1 block, got 0"),
        (["--capacity", "10,-1"], "got -1"),
        (["--capacity", "many"], "--capacity: 'many' is no list of numbers"),
        (["--block-bytes", "100"], "--block-bytes must be a multiple of 8"),
        (["--plot", "hits.svg"], "must be a .png file"),
        (["--config", "/nowhere.toml"], "cannot read the configuration"),
    ],
)
def test_refusals(command: Callable[..., Any], trace: str, flags: list[str], said: str) -> None:
    assert said in command("replay", trace, *flags).refused(2)


def test_traces_that_cannot_be_read(command: Callable[..., Any], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    assert "cannot read the trace" in command("replay", str(bad), "--index-only").refused(2)
    bad.write_text("")
    assert "bad.jsonl has no blocks" in command("replay", str(bad), "--index-only").refused(2)
    bad.write_text(lines([[1]]) + '{"hash_ids": ["[red]"]}')
    assert 'bad.jsonl, line 2: hash_ids[0] must be an integer, got "[red]"' in command("replay", str(bad)).refused(2)


def test_help(command: Callable[..., Any]) -> None:
    done = command("replay", "--help")
    assert done.status == 0 and "--index-only" in done.out
