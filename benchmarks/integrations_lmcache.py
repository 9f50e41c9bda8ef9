"""The rows of `benchmarks/integrations.py` that need LMCache; run by it in LMCache's environment.

A store in another process, and a Redis server; LMCache's own remote backend puts and gets the same chunks through our
connector and through its own two for Redis, turn by turn: `redis://`, and `resp://`, whose client is C++ and moves a
batch at a time. `integrations_lmcache.py ROUNDS OPERATIONS`.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# the stand-in for an inference engine belongs to the tests
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from integrations_lmcache_operations import wrong_bytes  # noqa: E402
from integrations_store import progress, row, served  # noqa: E402
from lmcache.utils import CacheEngineKey  # noqa: E402
from redis import Redis  # noqa: E402
from store_redis import server as redis_server  # noqa: E402

from cachestore.service.client import RemoteStore  # noqa: E402
from tests.integrations.lmcache.engine import Engine, Shape  # noqa: E402

MODELS = {"4mib": Shape(4, 8, 128, 256), "32mib": Shape(32, 8, 128, 256)}
"""Chunks of 256 tokens of models with 8 KV heads of 128 dimensions, of 4 layers and of 32."""
MOVED = 128 << 20
PATIENCE = 60.0
"""Seconds that a put, or a get, may take on a machine that is busy."""
PEERS = {"lmcache": f"redis://127.0.0.1:%d?socket_timeout={PATIENCE}", "lmcache_resp": "resp://127.0.0.1:%d"}
"""The rows of LMCache's own connectors, and their addresses."""


class Turn:
    """LMCache's remote backend with a connector, and how long it takes to put chunks and to get them."""

    def __init__(self, forget: Callable[[], object], shape: Shape, **settings: Any) -> None:
        self.forget = forget
        self.engine = Engine(
            "", shape, max_local_cpu_size=3 * MOVED / 2**30, blocking_timeout_secs=int(PATIENCE), **settings
        )
        (self.backend,) = (each for name, each in self.engine.backends.items() if name.startswith("RemoteBackend"))
        self.memory, self.metadata = self.engine.backends["LocalCPUBackend"], self.engine.engine.metadata

    def take(self, keys: list[CacheEngineKey], chunks: torch.Tensor) -> tuple[float, float]:
        """Seconds of a put, until all is there, and of a get; the bytes that came are compared."""
        given = [self.memory.allocate(self.metadata.get_shapes(), self.metadata.get_dtypes()) for _ in keys]
        for memory, chunk in zip(given, chunks, strict=True):
            memory.raw_data.copy_(chunk)
        left, done = [len(keys)], Event()

        def one_more(key: CacheEngineKey) -> None:
            left[0] -= 1
            if not left[0]:
                done.set()

        begun = time.perf_counter()
        self.backend.batched_submit_put_task(keys, given, on_complete_callback=one_more)
        assert done.wait(PATIENCE), "a put did not end"
        put = time.perf_counter() - begun
        begun = time.perf_counter()
        assert self.backend.batched_contains(keys) == len(keys), "what was put is not there"
        found = self.backend.batched_get_blocking(keys)
        got = time.perf_counter() - begun
        for memory, chunk in zip(found, chunks, strict=True):
            assert memory is not None, "what was put did not come"
            assert torch.equal(memory.raw_data, chunk), "wrong bytes"
        for memory in (*given, *found):
            memory.ref_count_down()
        # as in a store that is full, what comes next has memory that was used before
        self.forget()
        return put, got

    def close(self) -> None:
        executor = getattr(self.engine.connector, "pq_executor", None)
        if executor is not None:
            # LMCache's Redis connectors would wait in their event loop for that loop to go on
            executor.shutdown = lambda wait: executor.shutdown_async(wait=False)
        self.engine.close()


def throughput(address: str, port: int, rounds: int) -> None:
    """LMCache through its own connectors / through ours, in seconds of a put and a get; the lesser of all sizes."""
    ratios: dict[str, list[float]] = {peer: [] for peer in PEERS}
    own = {"address": address, "timeout": PATIENCE, "lookup_timeout": PATIENCE}
    for name, shape in MODELS.items():
        nbytes = shape.chunk.numel() * 2
        chunks = torch.randint(0, 256, (MOVED // nbytes, nbytes), dtype=torch.uint8)
        took: dict[str, list[tuple[float, float]]] = {side: [] for side in ("ours", *PEERS)}
        with ExitStack() as stack:
            store = stack.enter_context(RemoteStore(address))
            server = stack.enter_context(Redis(port=port, socket_timeout=PATIENCE))
            sides = {"ours": stack.enter_context(closing(Turn(store.clear, shape, own=own)))}
            for peer, url in PEERS.items():
                at = {"remote_storage_plugins": None, "remote_url": url % port}
                sides[peer] = stack.enter_context(closing(Turn(server.flushall, shape, **at)))
            for number in range(rounds + 1):
                keys = [
                    CacheEngineKey("model", 1, 0, number * 1000 + index, torch.bfloat16) for index in range(len(chunks))
                ]
                for side, turn in sides.items():
                    took[side].append(turn.take(keys, chunks))
                    put, got = took[side][-1]
                    progress(f"{name} round {number}, {side}: put {put * 1e3:.0f} ms, get {got * 1e3:.0f} ms")
        for peer, lesser in ratios.items():
            # the first round touches memory that nobody had before
            pairs = list(zip(took[peer], took["ours"], strict=True))[1:]
            row(f"{peer}_put_{name}", statistics.median(theirs[0] / ours[0] for theirs, ours in pairs))
            row(f"{peer}_get_{name}", statistics.median(theirs[1] / ours[1] for theirs, ours in pairs))
            lesser.append(statistics.median(sum(theirs) / sum(ours) for theirs, ours in pairs))
    for peer, each in ratios.items():
        row(peer, min(each))


def main() -> None:
    """Prints the rows."""
    rounds, operations = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    with served() as address, redis_server() as port:
        throughput(address, port, rounds)
    # so little that what was stored leaves all the time
    with served("4MiB") as address:
        for adapter, wrong in wrong_bytes(address, operations).items():
            row(f"wrong_bytes.{adapter}", wrong)


if __name__ == "__main__":
    main()
