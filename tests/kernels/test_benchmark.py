"""The benchmark that a device runs in one call, in the interpreter: its figures mean nothing, that it ends does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_every_group_of_rows_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.kernels", "--interpret", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "kernels.json").read_text())
    assert found["skipped"] == {}
    assert "passed" in found["tests"] and "failed" not in found["tests"]
    names = {row["id"].partition(".")[0] for row in found["rows"]}
    assert names == {
        "device",
        "gather",
        "scatter",
        "quant",
        "peaks",
        "shuffle",
        "rope",
        "checksum",
        "decode",
        "prefill",
    }
    assert all(bar["figures"] and bar["worst"] is not None for bar in found["bars"])
    assert "decode.prefetch.best" in (tmp_path / "kernels.txt").read_text()
