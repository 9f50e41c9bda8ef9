"""The benchmark's optimum is one, and its rows say what they must."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cachestore.scheduling.mc_sf import McSf
from cachestore.scheduling.predictor import Request
from cachestore.scheduling.simulation import Arrival, simulate

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def optimum(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from scheduling_optimum import optimum  # type: ignore[import-not-found]

    found: Callable[..., Any] = optimum
    return found


def latency_of(arrivals: Sequence[Arrival], starts: Sequence[int], budget: int) -> int | None:
    """The total latency of these starts; None if memory does not suffice, or one starts before it arrived."""
    if any(start < arrival.step for start, arrival in zip(starts, arrivals, strict=True)):
        return None
    end = max(start + arrival.output for start, arrival in zip(starts, arrivals, strict=True))
    for step in range(end + 1):
        runs = [
            (one, step - start) for one, start in zip(arrivals, starts, strict=True) if 0 < step - start <= one.output
        ]
        if sum(one.request.prompt_tokens + taken for one, taken in runs) > budget:
            return None
    return sum(start + one.output - one.step for start, one in zip(starts, arrivals, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_that_of_all_schedules(optimum: Callable[..., Any], seed: int) -> None:
    random, budget, arrivals = Random(seed), 6, list[Arrival]()
    for _ in range(4):
        prompt = random.randint(1, 2)
        output = random.randint(1, 4)
        step = random.randint(0, 3) if seed % 2 else 0
        arrivals.append(Arrival(step, Request("paper", prompt, output, output), output))
    arrivals.sort(key=lambda arrival: arrival.step)
    known = simulate(McSf(ageing=0).start(), arrivals, budget).total
    found = optimum(arrivals, budget, known, 60.0)
    assert found.proven and found.gap == 0
    assert latency_of(arrivals, found.starts, budget) == found.total
    last = max(arrival.step for arrival in arrivals) + sum(arrival.output for arrival in arrivals)
    every = (latency_of(arrivals, starts, budget) for starts in product(range(last), repeat=len(arrivals)))
    assert found.total == min(total for total in every if total is not None) <= known


def report(*arguments: str) -> dict[str, Any]:
    """What the benchmark prints in a process of its own, without the user's data."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("CACHESTORE_")}
    command = [sys.executable, str(BENCHMARKS / "scheduling.py"), "--quick", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=outside, timeout=100)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_rows(tmp_path: Path) -> None:
    random = Random(0)
    lines = [
        {"timestamp": 10 * number, "input_length": random.randint(1, 200_000), "output_length": random.randint(1, 40)}
        for number in range(200)
    ]
    (tmp_path / "conversation_trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = report("--data", str(tmp_path))
    rows = {row["id"]: row for row in found["rows"]}
    assert rows["scheduling.mc_sf"]["bar"] == 1.10 and rows["scheduling.mc_sf"]["reach"] == 1.06
    for name in ("", ".online"):
        assert rows[f"scheduling.proven{name}"]["value"] == 1 and rows[f"scheduling.gap{name}"]["value"] == 0
        assert 1 <= rows[f"scheduling.mc_sf{name}"]["value"] <= rows[f"scheduling.mc_sf.worst{name}"]["value"]
        assert rows[f"scheduling.memory{name}"]["value"] <= 1
    for load in ("0.95", "1.2"):
        for way in ("fcfs", "mc_sf", "mc_sf_ageing", "mc_sf_history"):
            at = f"scheduling.trace_{load}.{way}"
            assert rows[f"{at}.p50"]["value"] <= rows[f"{at}.p95"]["value"] <= rows[f"{at}.longest"]["value"]
            assert rows[f"{at}.memory"]["value"] <= 1
    assert not found["skipped"]


def test_a_row_that_nobody_knows_is_refused() -> None:
    command = [sys.executable, str(BENCHMARKS / "scheduling.py"), "--rows", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "scheduling.trace" in done.stderr


def test_without_data_the_trace_is_skipped_and_says_so() -> None:
    assert "--data" in report("--rows", "scheduling.trace")["skipped"]["scheduling.trace"]
