"""The row of `benchmarks/integrations.py` that needs vLLM and LMCache: how soon a stored prompt is in vLLM's pages.

`integrations_vllm_load.py ROUNDS OPERATIONS`. vLLM's own scheduler, once with our connector and once with LMCache's
multi-process one and its server's shared memory, both with the same stand-in for a worker, in turns.
"""

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from integrations_store import progress, row, served
from integrations_vllm import Idle

from tests.integrations.vllm.engine import Engine
from tests.integrations.vllm.model import PAGE_TOKENS, Shape

SHAPE = Shape(layers=32, kv_heads=8, head_dim=128)
LOADED = 2048
PATIENCE = 120.0
SETTLING = 3.0
ATTEMPTS = 5
HOST = "127.0.0.1"


class Timed:
    """One engine whose store has the KV of a prompt, 256 MiB."""

    def __init__(self, name: str, folder: Path, address: str, **settings: Any) -> None:
        self.name = name
        pages = LOADED // PAGE_TOKENS + 16
        self.engine = Engine(folder / name, address, shape=SHAPE, pages=pages, budget=4096, work=Idle, **settings)
        for attempt in range(1, ATTEMPTS + 1):
            # another prompt each time: one that is looked for too early is stored as it lies in the pages then
            self.tokens = random.Random(attempt).choices(range(1, 4000), k=LOADED + PAGE_TOKENS)
            for cache in self.engine.workers.caches[0].values():
                cache.view(torch.int16).random_(-9999, 9999)
            self._run("cold")
            # what is saved lies in the pages that the request had
            self.stored = self._content(self.pages)
            time.sleep(SETTLING * attempt)
            if self.load() is not None:
                return
        raise AssertionError(f"{name} does not find what it stored")

    def load(self) -> float | None:
        """Seconds from `add_request` until all of it is loaded and compared; None if some of it was not there."""
        for cache in self.engine.workers.caches[0].values():
            cache.zero_()
        seconds, computed = self._run("warm")
        if computed > PAGE_TOKENS:
            return None
        for layer, (found, stored) in enumerate(zip(self._content(self.pages), self.stored, strict=True)):
            assert torch.equal(found, stored), f"{self.name}: wrong bytes in layer {layer}"
        return seconds

    def _run(self, kind: str) -> tuple[float, int]:
        """Until the prompt is scheduled, whose tokens that were not loaded are counted; then until nothing is left."""
        engine, until, name = self.engine, time.monotonic() + PATIENCE, f"{kind} {time.monotonic_ns()}"
        # not while pages wait for being saved
        while not engine.scheduler.reset_prefix_cache():
            assert time.monotonic() < until, f"{self.name} does not give its pages back"
            engine.step()
            time.sleep(0.01)
        before, begun = engine.computed, time.perf_counter()
        engine.add(name, self.tokens, new=1)
        while engine.computed == before:
            assert time.monotonic() < until, f"{self.name} does not load"
            engine.step()
            time.sleep(0.0005)
        seconds, computed = time.perf_counter() - begun, engine.computed - before
        self.pages = engine.workers.held[name].pages[: LOADED // PAGE_TOKENS]
        engine.run(PATIENCE)
        return seconds, computed

    def _content(self, pages: list[int]) -> list[torch.Tensor]:
        return [cache[pages].view(torch.int16).clone() for cache in self.engine.workers.caches[0].values()]


@contextmanager
def lmcache() -> Iterator[int]:
    """The port of LMCache's server, which shares its memory."""
    port, http = _free_port(), _free_port()
    settings = {
        "host": HOST,
        "port": port,
        "http-host": HOST,
        "http-port": http,
        "l1-size-gb": 2,
        "supported-transfer-mode": "auto",
        "eviction-policy": "LRU",
        "shm-name": f"cachestore-bench-{os.getpid()}",
    }
    command = [sys.executable, "-m", "lmcache.cli.main", "server", "--disable-observability"]
    command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + PATIENCE
            while socket.socket().connect_ex((HOST, http)):
                assert process.poll() is None and time.monotonic() < until, "LMCache's server does not start"
                time.sleep(0.1)
            yield port
        finally:
            process.kill()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def measure(rounds: int) -> None:
    """Prints the rows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # for the whole prompt at once, which here is stored in one step
        ours = Timed("cachestore", folder, stack.enter_context(served()), extra={"staging": "640MiB"})
        progress(f"ours: {ours.engine.stats} after {ours.engine.steps} steps")
        settings = {"lmcache.mp.host": f"tcp://{HOST}", "lmcache.mp.port": stack.enter_context(lmcache())}
        theirs = Timed(
            "lmcache",
            folder,
            "",
            transfer={
                "kv_connector": "LMCacheMPConnector",
                "kv_connector_module_path": "vllm.distributed.kv_transfer.kv_connector.v1.lmcache_mp_connector",
                "kv_connector_extra_config": settings,
            },
        )
        times: dict[str, list[float]] = {"cachestore": [], "lmcache": []}
        for number in range(rounds):
            for each in (ours, theirs) if number % 2 else (theirs, ours):
                seconds = each.load()
                assert seconds is not None, f"{each.name} lost what it stored"
                times[each.name].append(seconds * 1e3)
        progress(json.dumps(times))
        row("vllm_load_ms", statistics.median(times["cachestore"]))
        row("lmcache_load_ms", statistics.median(times["lmcache"]))
        pairs = zip(times["lmcache"], times["cachestore"], strict=True)
        row("vllm_load", statistics.median(them / us for them, us in pairs))


def main() -> None:
    """Measures, and ends."""
    torch.set_num_threads(1)
    status = 1
    try:
        measure(int(sys.argv[1]))
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        # threads of LMCache's client do not end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
