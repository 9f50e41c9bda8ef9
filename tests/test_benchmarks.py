"""The benchmarks run, and their rows say what they must; whether the figures are good is not for a test to say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STORE = Path(__file__).parent.parent / "benchmarks" / "store.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The benchmark of the store, in a process of its own that knows of no data and no peers."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("CACHESTORE_")}
    command = [sys.executable, str(STORE), "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=outside, timeout=100)


def report(*arguments: str) -> dict[str, Any]:
    """What it prints with `--json`."""
    done = run("--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("only", ["store.match_us", "redis.lookup_ms"])
def test_one_row(only: str) -> None:
    found = report("--only", only)
    (row,) = found["rows"]
    assert row["id"] == only and row["value"] > 0 and row["unit"] and row["better"] == "lower"
    assert row["reach"] < row["bar"] and not found["skipped"]


def test_a_killed_store_finds_what_it_acknowledged() -> None:
    (row,) = report("--only", "disk.restart")["rows"]
    assert row["value"] == row["bar"] == 1.0


def test_rows_without_their_data_are_skipped_and_say_so() -> None:
    found = report("--only", "r")
    assert {"redis.lmcache", "replay.gap_3000", "replay.gap_10000", "replay.speed"} == set(found["skipped"])
    assert "--data" in found["skipped"]["replay.speed"] and "--peers" in found["skipped"]["redis.lmcache"]


def test_the_rows_of_a_trace(tmp_path: Path) -> None:
    requests = [list(range(100 * number, 100 * number + 80)) for number in (*range(50), *range(60), *range(40))]
    lines = [json.dumps({"hash_ids": ids}) + "\n" for ids in requests]
    (tmp_path / "conversation_trace.jsonl").write_text("".join(lines))
    found = report("--only", "replay", "--data", str(tmp_path))
    rows = {row["id"]: row["value"] for row in found["rows"]}
    assert rows["replay.gap_3000"] <= 1 and rows["replay.speed"] > 0
    # all 4,800 blocks that differ have room
    assert list(found["skipped"]) == ["replay.gap_10000"]


def test_a_row_that_nobody_knows_is_refused() -> None:
    done = run("--only", "nothing")
    assert done.returncode == 2 and "store.read" in done.stderr
