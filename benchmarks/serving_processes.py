"""A store and workers as processes of their own, which end with the benchmark, however it ends."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from decode_worker.client import DecodeClient
from decode_worker.request import Usage

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = """import ctypes, runpy, signal, sys
DIES_WITH_PARENT = 1
ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module in a process that ends with its parent. The child asks for it: gRPC bears no code after a fork."""
ADDRESS = re.compile(r"127\.0\.0\.1:\d+")
PATIENCE = 60.0
"""Seconds that anything may take which is not measured."""
LONGEST = 300.0
"""Seconds that one request may take."""


class Kept(NamedTuple):
    """A store: where it is, and its client."""

    address: str
    client: RemoteStore


@dataclass
class System:
    """What was started; all of it ends when `ending` closes. Models and prompts are the caller's."""

    model: Path
    folder: Path
    ending: ExitStack

    def store(self, tiers: str) -> Kept:
        """A store with these `[[tiers]]`."""
        name = self._name("store")
        config = self._config(name, f"{tiers}\n[service]\nport = 0\n")
        address = self._start(name, "cachestore", "serve", "--config", str(config))
        return Kept(address, self.ending.enter_context(RemoteStore(address)))

    def prefill(self, store: Kept, tables: str = "") -> None:
        """A prefill worker on this store."""
        self._worker("prefill", store, tables)

    def decode(self, store: Kept, tables: str = "") -> DecodeClient:
        """A decode worker on this store."""
        address = self._worker("decode", store, tables)
        return self.ending.enter_context(DecodeClient(address))

    def _worker(self, role: str, store: Kept, tables: str) -> str:
        known = len(store.client.members(role)[1])
        name = self._name(role)
        config = self._config(name, f'[engine]\nmodel = "{self.model}"\n{tables}\n')
        address = self._start(
            name, f"{role}_worker", "--config", str(config), "--store", store.address, "--name", name
        )  # fmt: skip
        await_true(lambda: len(store.client.members(role)[1]) > known, f"{name} in the cluster map")
        return address

    def _name(self, role: str) -> str:
        return f"{role}-{len(list(self.folder.glob('*.log')))}"

    def _config(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(text)
        return path

    def _start(self, name: str, module: str, *arguments: str) -> str:
        """Starts a program of ours; the address it tells. What it logged is shown if it ends instead."""
        place = self.folder / f"{name}.log"
        with place.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, module, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                stderr=log, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )  # fmt: skip
        self.ending.callback(ended, process)
        assert process.stdout is not None
        for line in process.stdout:
            if found := ADDRESS.search(line):
                return found.group()
        raise RuntimeError(f"{name} did not start:\n{place.read_text()[-2000:]}")


@contextmanager
def system(model: Path) -> Iterator[System]:
    """Nothing yet; whatever is started inside the context ends with it, the last first."""
    with TemporaryDirectory(prefix="cachestore-bench-") as folder, ExitStack() as ending:
        yield System(model, Path(folder), ending)


def ended(process: "subprocess.Popen[str]") -> None:
    """Tells a process to end, and waits until it did."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def await_true(holds: Callable[[], bool], what: str) -> None:
    """Returns when `holds` says so; an error names `what` if that takes too long."""
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Timed:
    """A request: seconds from asking to its last token, its tokens, and how it went."""

    seconds: float
    tokens: list[int]
    usage: Usage


def timed(client: DecodeClient, tokens: Sequence[int], count: int) -> Timed:
    """Asks for so many tokens at most. Blocks are stored when it returns, but that time is not counted."""
    begun = last = time.perf_counter()
    made = []
    with client.generate(tokens, max_tokens=count, timeout=LONGEST) as answer:
        for token in answer:
            last = time.perf_counter()
            made.append(token)
    if answer.usage is None:
        raise RuntimeError("the answer has no end")
    return Timed(last - begun, made, answer.usage)


def added(store: Kept, tier: str) -> int:
    """How many blocks have come to a tier."""
    return total(store.client.stats(), "tier_added", tier=tier)
