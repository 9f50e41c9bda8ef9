"""`cachestore demo`, whole, as a user runs it: what it reports, what it prints, and what it leaves."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from cachestore.demo.documents import needle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
MARK = "CACHESTORE_TEST_MARK"
LIMIT = 240.0


def alive(mark: str) -> list[int]:
    """Every process that inherited the mark and is not dead."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and mark.encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


@pytest.fixture
def demo(eventually: Callable[..., None]) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a demo; at the end none of its processes may be left."""
    mark = secrets.token_hex(16)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "COLUMNS"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "cachestore", "demo", *arguments],
                cwd=ROOT, env=clean | environment | {MARK: mark},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    try:
        eventually(lambda: alive(mark) == [], 20.0)
    finally:
        for pid in alive(mark):
            os.kill(pid, signal.SIGKILL)
        for process in started:
            process.communicate()


def test_it_shows_what_it_promises(demo: Callable[..., Any]) -> None:
    process = demo("--json")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and err == ""
    told = json.loads(out)
    assert told["identical_tokens"] is True
    assert told["accuracy_warm"] >= 0.9 and told["accuracy_cold"] == told["accuracy_warm"]
    assert 0 < told["ttft_warm_ms_p50"] < told["ttft_cold_ms_p50"]
    assert told["users"] == 8 and told["questions"] == 48
    assert told["tokens_reused"] > told["prompt_tokens"] / 2 and told["redis_blocks_read"] > 0
    assert told["hits_by_tier"]["cpu"] > 0 and told["hits_by_tier"]["redis"] >= told["redis_blocks_read"]
    assert told["killed_worker"].startswith("decode-") and told["moved_requests"] > 0
    assert told["accuracy_after_kill"] == told["accuracy_cold"]


@pytest.mark.timeout(600)
def test_three_nodes_of_which_one_dies(demo: Callable[..., Any]) -> None:
    process = demo("--json", "--nodes", "3")
    out, err = process.communicate(timeout=580)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert told["identical_tokens"] is True and told["nodes"] == 3
    assert told["accuracy_after_node"] == told["accuracy_cold"] and len(told["killed_node"]) == 12
    assert told["redis_blocks_read"] > 0


def test_another_model_and_own_texts(demo: Callable[..., Any], tmp_path: Path) -> None:
    """As tables, on 80 columns; names and texts have signs that consoles interpret."""
    tokenizer = AutoTokenizer.from_pretrained(needle() / "model")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, bos_token_id=None, eos_token_id=None,
        pad_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    prompts = tmp_path / "prompts.json"
    text = "The [bold]code[/] of station Lima is 4831. " * 10
    prompts.write_text(json.dumps([{"name": "[red]", "document": text, "questions": [{"question": "[/] what?"}]}]))
    process = demo("--model", str(tmp_path / "model"), "--prompts", str(prompts), COLUMNS="80")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and err == ""
    assert "[red]" in out and "identical answers to 1 questions" in out
    assert "prompt tokens reused" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(demo: Callable[..., Any], number: int) -> None:
    process = demo()
    for line in process.stdout:
        if "prefill worker" in line:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in err


def test_what_cannot_work_is_said_at_once(demo: Callable[..., Any], tmp_path: Path) -> None:
    """No tokenizer; the model itself would load."""
    LlamaConfig().save_pretrained(tmp_path)
    started = time.monotonic()
    process = demo("--json", "--model", str(tmp_path))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: engine.model: ") and err.count("\n") == 1
    assert time.monotonic() - started < 30
