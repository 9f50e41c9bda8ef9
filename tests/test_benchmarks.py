"""The benchmarks run, and their rows say what they must; whether the figures are good is not for a test to say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(*arguments: str, script: str = "store.py") -> subprocess.CompletedProcess[str]:
    """A benchmark, that of the store if no other is named, in a process of its own without data and without peers."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("CACHESTORE_")}
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=outside, timeout=300)


def report(*arguments: str, script: str = "store.py") -> dict[str, Any]:
    """What it prints with `--json`."""
    done = run("--json", *arguments, script=script)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("only", ["store.match_us", "redis.lookup_ms"])
def test_one_row(only: str) -> None:
    found = report("--rows", only)
    (row,) = found["rows"]
    assert row["id"] == only and row["value"] > 0 and row["unit"] and row["better"] == "lower"
    assert row["reach"] < row["bar"] and not found["skipped"]


def test_a_killed_store_finds_what_it_acknowledged() -> None:
    (row,) = report("--rows", "disk.restart")["rows"]
    assert row["value"] == row["bar"] == 1.0


def test_rows_without_their_data_are_skipped_and_say_so() -> None:
    found = report("--rows", "r")
    assert {"redis.lmcache", "replay.gap_3000", "replay.gap_10000", "replay.speed"} == set(found["skipped"])
    assert "--data" in found["skipped"]["replay.speed"] and "--peers" in found["skipped"]["redis.lmcache"]


def test_the_rows_of_a_trace(tmp_path: Path) -> None:
    requests = [list(range(100 * number, 100 * number + 80)) for number in (*range(50), *range(60), *range(40))]
    lines = [json.dumps({"hash_ids": ids}) + "\n" for ids in requests]
    (tmp_path / "conversation_trace.jsonl").write_text("".join(lines))
    found = report("--rows", "replay", "--data", str(tmp_path))
    rows = {row["id"]: row["value"] for row in found["rows"]}
    assert rows["replay.gap_3000"] <= 1 and rows["replay.speed"] > 0
    # all 4,800 blocks that differ have room
    assert list(found["skipped"]) == ["replay.gap_10000"]


@pytest.mark.parametrize("script", ["store.py", "wire.py", "serving.py"])
def test_a_row_that_nobody_knows_is_refused(script: str) -> None:
    done = run("--rows", "nothing", script=script)
    assert done.returncode == 2 and f"{script.removesuffix('.py')}." in done.stderr


def test_calls_of_the_wire() -> None:
    found = report("--rows", "wire.lookup_ms", script="wire.py")
    rows = {row["id"]: row for row in found["rows"]}
    assert {"wire.lookup_ms", "wire.mirror_ms"} == set(rows)
    for row in rows.values():
        assert row["value"] > 0 and row["unit"] == "ms" and row["better"] == "lower" and row["reach"] < row["bar"]


def test_reads_from_another_node_beside_tcp_and_no_peers() -> None:
    found = report("--rows", "wire.stream_read", "--pin", "1", script="wire.py")
    rows = {row["id"]: row for row in found["rows"]}
    ratio, ours, tcp = (rows[f"wire.stream_read{side}"]["value"] for side in ("", ".stream", ".tcp"))
    assert 0 < ratio and 0 < ours and 0 < tcp
    assert ", 1 cores" in found["machine"]
    assert {"wire.mooncake_read", "wire.mooncake_verified"} == set(found["skipped"])
    assert all("--peers" in why for why in found["skipped"].values())


def test_every_row_of_the_wire_is_measured_or_says_why_not() -> None:
    found = report(script="wire.py")
    named = {row["id"] for row in found["rows"]} | set(found["skipped"])
    peers = {"mooncake_read", "mooncake_write", "mooncake_verified", "mooncake_local", "lmcache_server"}
    ours = {"local_read", "local_put", "stream_read", "stream_write", "bulk_read", "bulk_write", "cpu", "lookup_ms"}
    ours |= {"mirror_ms", "readers4", "mtls", "mtls_bulk", "first_plane_ms"}
    assert {f"wire.{name}" for name in ours | peers} <= named


def test_peers_that_are_not_there_are_skipped(tmp_path: Path) -> None:
    found = report("--rows", "wire.lmcache_server", "--peers", str(tmp_path), script="wire.py")
    (why,) = found["skipped"].values()
    assert "bench-peers" in why or "unshare" in why


def test_the_serving_loop_beside_generate() -> None:
    found = report("--rows", "serving.mixed", script="serving.py")
    rows = {row["id"]: row for row in found["rows"]}
    assert (rows["serving.mixed"]["bar"], rows["serving.mixed"]["reach"]) == (1.2, 1.8)
    # rates may be what they like here, tokens may not
    assert rows["serving.mixed"]["value"] > 0 and rows["serving.mixed.same"]["value"] == 1


def test_a_handoff_between_processes_that_end_with_the_benchmark() -> None:
    found = report("--rows", "serving.disaggregated", script="serving.py")
    (row,) = (row for row in found["rows"] if row["id"] == "serving.disaggregated")
    assert row["value"] > 0 and row["better"] == "lower" and row["reach"] < row["bar"]
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"cachestore-bench-" in read(path)]
    assert not left


def read(path: Path) -> bytes:
    """A file's bytes; none if it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_conversations_compute_nothing_twice(tmp_path: Path) -> None:
    question = "What is the code of the ship? "
    texts = [f"{number} {question * 20}" for number in range(3)]
    entries = [{"input": text + more, "output_length": 9} for text in texts for more in ("", "an answer. " * 30)]
    (tmp_path / "sharegpt.json").write_text(json.dumps(entries))
    found = report("--rows", "serving.recompute", "--data", str(tmp_path), script="serving.py")
    rows = {row["id"]: row["value"] for row in found["rows"]}
    assert rows["serving.recompute.turns"] == 6 and rows["serving.recompute.reused"] > 0
    assert 1 <= rows["serving.recompute"] <= 1.05


def test_without_conversations_their_row_is_skipped_and_says_so() -> None:
    assert "--data" in report("--rows", "serving.recompute", script="serving.py")["skipped"]["serving.recompute"]


def test_a_row_of_serving_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "sharegpt.json").write_text("[{}]")
    done = run("--rows", "serving.recompute", "--data", str(tmp_path), script="serving.py")
    assert done.returncode == 1 and "failed: serving.recompute" in done.stderr


def test_a_simulated_cluster(tmp_path: Path) -> None:
    starts = [turn // 4 * 9 for turn in range(200)]
    lines = [{"timestamp": turn, "hash_ids": [*range(start, start + 9)]} for turn, start in enumerate(starts)]
    (tmp_path / "conversation_trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = report("--nodes", "2", "--data", str(tmp_path), script="cluster_sim.py")
    rows = {row["id"]: row for row in found["rows"]}
    assert rows["cluster.imbalance"]["value"] >= 1 and rows["cluster.million_blocks"]["value"] > 50
    for name in ("trace", "zipf"):
        assert rows[f"cluster.{name}_2.lookups"]["value"] == 1
        assert rows[f"cluster.{name}_2.hit_rate"]["value"] <= rows[f"cluster.{name}_2.infinite"]["value"]
    assert {"cluster.loss_1", "cluster.loss_10"} == set(found["skipped"])


def test_a_cluster_without_a_trace_is_simulated_with_drawn_prompts() -> None:
    found = report("--nodes", "2", script="cluster_sim.py")
    assert "--data" in found["skipped"]["cluster.trace"]
    assert {row["id"].partition("_")[0] for row in found["rows"]} >= {"cluster.zipf", "cluster.imbalance"}


def test_several_nodes_hit_as_much_as_one(tmp_path: Path) -> None:
    starts = [turn // 4 * 9 for turn in range(100)]
    lines = [{"timestamp": turn, "hash_ids": [*range(start, start + 9)]} for turn, start in enumerate(starts)]
    (tmp_path / "conversation_trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    soak = tmp_path / "soak.json"
    zero = {"wrong_bytes": 0, "lost_durable": 0, "calls_past_deadline_plus_250_ms": 0, "unexpected_status": 3}
    soak.write_text(json.dumps({"zero": zero, "minutes": 0.5, "operations": 7}))
    rows = ("cluster.hit3", "cluster.hit1000", "cluster.soak")
    found = report("--rows", *rows, "--data", str(tmp_path), "--soak", str(soak), script="cluster.py")
    values = {row["id"]: row["value"] for row in found["rows"]}
    assert values["cluster.hit3"] > 0 and values["cluster.lookups"] == 1
    assert [values[f"cluster.soak.{name}"] for name in ("past_deadline", "wrong_bytes", "lost_durable")] == [0, 0, 0]
    assert "--simulate" in found["skipped"]["cluster.hit1000"] and "--simulate" in found["skipped"]["cluster.imbalance"]
