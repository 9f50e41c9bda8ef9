"""The rows of `benchmarks/integrations.py` that need LMCache; run by it in LMCache's environment.

A store in another process, and a Redis server; LMCache's own remote backend puts and gets the same chunks through our
connector and through its own for Redis, turn by turn. `integrations_lmcache.py ROUNDS OPERATIONS`.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# the stand-in for an inference engine belongs to the tests
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from integrations_store import progress, row, served  # noqa: E402
from lmcache.utils import CacheEngineKey  # noqa: E402
from redis import Redis  # noqa: E402
from store_redis import server as redis_server  # noqa: E402

from cachestore.service.client import RemoteStore  # noqa: E402
from tests.integrations.lmcache.engine import Engine, Server, Shape, WrongBytes  # noqa: E402

MODELS = {"4mib": Shape(4, 8, 128, 256), "32mib": Shape(32, 8, 128, 256)}
"""Chunks of 256 tokens of models with 8 KV heads of 128 dimensions, of 4 layers and of 32."""
MOVED = 128 << 20
PATIENCE = 60.0


class Turn:
    """LMCache's remote backend with a connector, and how long it takes to put chunks and to get them."""

    def __init__(self, forget: Callable[[], object], shape: Shape, **settings: Any) -> None:
        self.forget = forget
        self.engine = Engine("", shape, max_local_cpu_size=3 * MOVED / 2**30, **settings)
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
        assert done.wait(PATIENCE)
        put = time.perf_counter() - begun
        begun = time.perf_counter()
        assert self.backend.batched_contains(keys) == len(keys)
        found = self.backend.batched_get_blocking(keys)
        got = time.perf_counter() - begun
        for memory, chunk in zip(found, chunks, strict=True):
            assert torch.equal(memory.raw_data, chunk), "wrong bytes"
        for memory in (*given, *found):
            memory.ref_count_down()
        # as in a store that is full, what comes next has memory that was used before
        self.forget()
        return put, got


def throughput(address: str, port: int, rounds: int) -> None:
    """LMCache through our connector / through its own for Redis, in bytes a second; the lesser of all sizes."""
    store, peer, worst = RemoteStore(address), Redis(port=port), list[float]()
    store.open()
    for name, shape in MODELS.items():
        nbytes = shape.chunk.numel() * 2
        chunks = torch.randint(0, 256, (MOVED // nbytes, nbytes), dtype=torch.uint8)
        ours = Turn(store.clear, shape, own={"address": address})
        theirs = Turn(peer.flushall, shape, remote_storage_plugins=None, remote_url=f"redis://127.0.0.1:{port}")
        puts, gets, both = [], [], []
        for number in range(rounds + 1):
            keys = [
                CacheEngineKey("model", 1, 0, number * 1000 + index, torch.bfloat16) for index in range(len(chunks))
            ]
            (their_put, their_get), (our_put, our_get) = theirs.take(keys, chunks), ours.take(keys, chunks)
            progress(
                f"{name} round {number}: put {our_put * 1e3:.0f} against {their_put * 1e3:.0f} ms, "
                f"get {our_get * 1e3:.0f} against {their_get * 1e3:.0f} ms"
            )
            # the first touches memory that nobody had before
            if number:
                puts.append(their_put / our_put)
                gets.append(their_get / our_get)
                both.append((their_put + their_get) / (our_put + our_get))
        row(f"lmcache_put_{name}", statistics.median(puts))
        row(f"lmcache_get_{name}", statistics.median(gets))
        worst.append(statistics.median(both))
        for each in (ours, theirs):
            each.engine.close()
    store.close()
    row("lmcache", min(worst))


@contextmanager
def parts(address: str) -> Iterator[tuple[list[Engine], list[Server]]]:
    """Engines and servers that share a store."""
    engines = [Engine(address), Engine(address, own={"threads": 1})]
    servers = [Server(address), Server(address, faults={"rate": 0.2, "seed": 3})]
    yield engines, servers
    for each in (*engines, *servers):
        each.close()


def wrong_bytes(address: str, operations: int) -> int:
    """How many of so many random stores and loads, by two engines and two servers at once, gave wrong bytes."""
    with parts(address) as (engines, servers), ThreadPoolExecutor(4) as threads:
        per = operations // 4
        made = [threads.submit(_engine_operations, one, per, number) for number, one in enumerate(engines)]
        made += [threads.submit(_server_operations, one, per, number) for number, one in enumerate(servers)]
        found = [each.result() for each in made]
        progress(f"chunks loaded: {[came for came, _ in found]}")
        assert all(came for came, _ in found), "nothing was loaded"
        return sum(wrong for _, wrong in found)


def _prompt(choose: random.Random) -> list[int]:
    return random.Random(choose.randrange(12)).choices(range(1000), k=96)[: 16 * choose.randrange(1, 7)]


def _engine_operations(one: Engine, operations: int, seed: int) -> tuple[int, int]:
    choose, came, wrong = random.Random(seed), 0, 0
    for _ in range(operations):
        if choose.random() < 0.3:
            one.begin_store(_prompt(choose))
            continue
        try:
            came += one.load(_prompt(choose))
        except WrongBytes:
            wrong += 1
    return came, wrong


def _server_operations(one: Server, operations: int, seed: int) -> tuple[int, int]:
    choose, came, wrong = random.Random(seed), 0, 0
    for _ in range(operations):
        keys = one.keys(_prompt(choose))
        if choose.random() < 0.3:
            one.store(keys)
            continue
        try:
            came += one.load(keys)
        except WrongBytes:
            wrong += 1
        one.forget()
    return came, wrong


def main() -> None:
    """Prints the rows."""
    rounds, operations = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    with ExitStack() as stack:
        address = stack.enter_context(served())
        throughput(address, stack.enter_context(redis_server()), rounds)
        row("wrong_bytes", wrong_bytes(address, operations))


if __name__ == "__main__":
    main()
