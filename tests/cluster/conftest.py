"""Real Ray, always in processes of its own: each scenario has a hard limit, and nothing of it may stay behind."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

if TYPE_CHECKING:
    from tests.cluster.peer_nodes import RedisNodes
    from tests.redis_servers.server import RedisServer

ROOT = Path(__file__).parents[2]
MARK = "CACHESTORE_TEST_MARK"
BLOCK = 16


def eventually(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Waits until `holds` says yes; fails when the time is over."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"did not hold within {seconds} s"
        time.sleep(0.02)


@dataclass
class Marked:
    """All processes that descend from one start: they inherit a mark in their environment."""

    mark: str = field(default_factory=lambda: secrets.token_hex(16))

    def pids(self, title: str = "") -> list[int]:
        """Those that are alive and have `title` in their command line."""
        found = []
        for place in Path("/proc").iterdir():
            if not place.name.isdigit():
                continue
            try:
                if f"{MARK}={self.mark}".encode() not in (place / "environ").read_bytes():
                    continue
                command = (place / "cmdline").read_bytes()
                zombie = (place / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if not zombie and title.encode() in command:
                found.append(int(place.name))
        return found

    def gone(self) -> bool:
        """Whether none is alive any more."""
        return not self.pids()

    def kill(self) -> None:
        """Ends what is left."""
        # the keeper of an embedded Redis is a shell, which ends with its owner and takes the server with it
        keepers = set(self.pids("/bin/sh"))
        for pid in set(self.pids()) - keepers:
            self._kill(pid)
        until = time.monotonic() + 5.0
        while self.pids() and time.monotonic() < until:
            time.sleep(0.02)
        for pid in self.pids():
            self._kill(pid)

    @staticmethod
    def _kill(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass
class Ray:
    """Starts processes that start Ray, with a home and a state folder of their own."""

    folder: Path
    marked: Marked = field(default_factory=Marked)
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, *command: str, **environment: str) -> "subprocess.Popen[str]":
        """A Python process with these arguments."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own = {MARK: self.marked.mark, "HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}
        errors = (self.folder / f"errors-{len(self.started)}").open("w")
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**clean, **own, **environment}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        errors.close()
        self.started.append(process)
        return process

    def errors(self, number: int = -1) -> str:
        """What a process wrote to standard error."""
        count = number % len(self.started)
        return (self.folder / f"errors-{count}").read_text()

    def end(self) -> None:
        """Ends everything, ready or not."""
        self.marked.kill()
        for process in self.started:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def read_object(process: "subprocess.Popen[str]") -> Any:
    """The JSON object that a process prints over several lines; fails if it ends without one."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            return json.loads(text)
    raise AssertionError(f"the process ended with status {process.wait()} and said: {text}")


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """`eventually` for tests."""
    return eventually


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("tiny")
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def configuration(tiny_model: Path) -> str:
    """Store, engine and one worker of each role."""
    return (
        '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n[[tiers]]\nname = "redis"\nurl = "embedded"\ncapacity = "64MiB"\n'
        f'[service]\nport = 0\n[engine]\nmodel = "{tiny_model}"\nblock_tokens = {BLOCK}\n'
        "threads = 1\n[decode_worker]\nlocal_prefill_tokens = 0\n[cluster]\nprefill = 1\ndecode = 1\n"
    )


@pytest.fixture
def nodes(redis_server: "Callable[..., RedisServer]") -> "Iterator[RedisNodes]":
    """Starts nodes with one Redis."""
    # which takes `eventually` from here
    from tests.cluster.peer_nodes import RedisNodes

    with ExitStack() as stack:
        yield RedisNodes(redis_server(), stack)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """Starts processes; whatever is left at the end is killed."""
    starter = Ray(tmp_path_factory.mktemp("ray"))
    yield starter
    starter.end()


@pytest.fixture(scope="session")
def next_object() -> Callable[["subprocess.Popen[str]"], Any]:
    """`read_object` for tests."""
    return read_object
