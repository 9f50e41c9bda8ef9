"""`cachestore up` and `cachestore down`, as a user types them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cachestore.service.client import RemoteStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
SECONDS = 100


@pytest.fixture
def given(tmp_path: Path) -> str:
    """A configuration with a tiny model and one worker of each role."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    path = tmp_path / "cachestore.toml"
    path.write_text(
        '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n[[tiers]]\nname = "redis"\ncapacity = "64MiB"\n'
        f'[service]\nport = 0\n[engine]\nmodel = "{tmp_path / "model"}"\nthreads = 1\n'
        "[cluster]\nprefill = 1\ndecode = 1\n"
    )
    return str(path)


def supervisor(folder: Path) -> int:
    """The process behind `up`."""
    return int(json.loads((folder / "cachestore" / "up.json").read_text())["pid"])


def test_up_up_down_down(
    process: Callable[..., Any], given: str, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    up = process("up", "--json", "--config", given, timeout=SECONDS, **state)
    assert up.status == 0, up.err
    pid = supervisor(tmp_path)
    try:
        (address,) = up.object["stores"].values()
        with RemoteStore(address) as store:
            assert sorted(member.role for member in store.members()[1]) == ["decode", "prefill"]
        line = process("up", "--config", given, **state).refused(2)
        assert f"already up, or coming up, as process {pid}" in line and "cachestore down" in line
        down = process("down", "--json", timeout=SECONDS, **state)
        assert down.object == {"stopped": 1}
        eventually(lambda: not Path(f"/proc/{pid}").exists())
        assert process("down", **state).out == "nothing was up\n"
        assert not (tmp_path / "cachestore" / "up.json").exists()
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGTERM)


def test_an_interrupted_up_leaves_nothing(given: str, tmp_path: Path, eventually: Callable[..., None]) -> None:
    up = subprocess.Popen(
        [sys.executable, "-m", "cachestore", "up", "--config", given], cwd=ROOT, text=True,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert up.stderr is not None
    for line in up.stderr:
        if "starting the store" in line:
            break
    pid = supervisor(tmp_path)
    up.send_signal(signal.SIGINT)
    out, err = up.communicate(timeout=SECONDS)
    assert up.returncode != 0 and "Traceback" not in out + err
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert not (tmp_path / "cachestore" / "up.json").exists()
