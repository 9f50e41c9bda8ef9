"""The rows of `benchmarks/integrations.py` that need SGLang; run by it in SGLang's environment.

A store in another process; batches of SGLang's own size through our backend, from and to SGLang's host memory, and
through SGLang's `file` backend in a folder in memory, in turns. The latter gets its pages ready, without what SGLang
copies around it, and checks nothing; ours has each byte checked.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from integrations_store import ROOT, progress, row, served

# the stand-in belongs to the tests
sys.path.insert(0, str(ROOT))

from tests.integrations.sglang.operators import declare

declare()

from sglang.srt.mem_cache.hicache_storage import STORAGE_BATCH_SIZE, HiCacheFile, HiCacheStorageConfig  # noqa: E402

from tests.integrations.sglang.engine import PAGE_TOKENS, Engine, Shape  # noqa: E402

SHAPE = Shape(layers=4, kv_heads=8, head_dim=128)
TOKEN_BYTES = 2 * 4 * 8 * 128 * 2
PAGES = {"sglang": 64 << 10, "sglang_2mib": 2 << 20}
IN_MEMORY = Path("/dev/shm")


def seconds(call: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begun


def ratios(address: str, page_bytes: int, rounds: int) -> tuple[float, float]:
    """How much faster a batch is set and got through ours than through files, medians of the rounds."""
    engine = Engine(address, shape=SHAPE, pages=STORAGE_BATCH_SIZE + 1, page_tokens=page_bytes // TOKEN_BYTES)
    backend, pool = engine.backend, engine.pool
    indices = pool.alloc(STORAGE_BATCH_SIZE * engine.page_tokens)
    pool.kv_buffer.view(torch.int16).random_()
    # as integers: random numbers of 16 bits are no numbers at times, which equal nothing
    pages = [pool.get_data_page(int(page[0])).view(torch.int16) for page in indices.split(engine.page_tokens)]
    targets = [torch.zeros_like(page) for page in pages]
    faster: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        config = HiCacheStorageConfig(
            0, 1, 0, 1, 0, 1, False, False, True, "some/model", extra_config={"file_storage_path": folder}
        )
        file = HiCacheFile(config)
        for number in range(rounds + 1):
            keys = [sha256(f"{number} {page}".encode()).hexdigest() for page in range(STORAGE_BATCH_SIZE)]
            theirs = seconds(file.batch_set, keys, pages), seconds(file.batch_get, keys, targets)
            assert all(map(torch.equal, pages, targets)), "wrong bytes from files"
            saved = seconds(backend.batch_set_v1, keys, indices)
            pool.kv_buffer.zero_()
            loaded = seconds(backend.batch_get_v1, keys, indices)
            found = [pool.get_data_page(int(page[0])) for page in indices.split(engine.page_tokens)]
            found = [page.view(torch.int16) for page in found]
            assert all(map(torch.equal, pages, found)), "wrong bytes from ours"
            # the first finds memory that nobody has touched yet
            if number:
                faster.append((theirs[0] / saved, theirs[1] / loaded))
            file.clear()
            backend.clear()
    pool.free(indices)
    engine.close()
    return statistics.median(each[0] for each in faster), statistics.median(each[1] for each in faster)


def wrong_bytes(address: str, operations: int) -> int:
    """Loads with a wrong byte among so many random operations of two engines on one store."""
    choose, wrong = random.Random(7), 0
    engines = [Engine(address), Engine(address, zero_copy=False)]
    for number in range(operations):
        if number % 1000 == 999:
            progress(f"sglang: {number + 1} operations")
        engine = choose.choice(engines)
        tokens = random.Random(choose.randrange(60)).choices(range(1, 5000), k=PAGE_TOKENS * choose.randrange(1, 12))
        if choose.random() < 0.4:
            engine.store(tokens)
        elif choose.random() < 0.01:
            engine.backend.clear()
        else:
            try:
                engine.load(tokens)
            except AssertionError as error:
                print(error, file=sys.stderr)
                wrong += 1
    for engine in engines:
        engine.close()
    return wrong


def main() -> None:
    """`integrations_sglang.py ROUNDS OPERATIONS`."""
    rounds, operations = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for name, page_bytes in PAGES.items():
        with served() as address:
            faster_set, faster_get = ratios(address, page_bytes, rounds)
        row(f"{name}_set", faster_set)
        row(f"{name}_get", faster_get)
        row(name, min(faster_set, faster_get))
    with served() as address:
        row("wrong_bytes.sglang", wrong_bytes(address, operations))


if __name__ == "__main__":
    main()
