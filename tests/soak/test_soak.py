"""The soak itself runs, sees its faults act, and finds nothing that must not be."""

import json
import subprocess
import sys

import pytest

from tests.faults.wire import TRANSPORTS


@pytest.mark.slow
@pytest.mark.parametrize("transports", sorted(TRANSPORTS))
def test_a_short_soak_finds_nothing(transports: str) -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.3", "--json", "--transports", transports]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["faults_seen"] >= 3 and figures["verified_reads"] > 0 and not any(figures["zero"].values())


@pytest.mark.slow
def test_a_short_soak_of_three_nodes_finds_nothing() -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.4", "--nodes", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["nodes"] == 3 and figures["blocks_from_other_nodes"] > 0 and not any(figures["zero"].values())


@pytest.mark.slow
def test_recovery_is_measured() -> None:
    command = [sys.executable, "-m", "tests.soak.recovery", "--trials", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    # a single trial on a busy machine may miss the bar; that it is measured is what counts here
    seconds = json.loads(done.stdout)["seconds"]
    assert {name for name, row in seconds.items() if row["n"] == 1} == set(seconds)
