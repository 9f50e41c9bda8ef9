"""The rows of `benchmarks/integrations.py` that need vLLM; run by it in vLLM's environment. Prints rows as JSON lines.

A store in another process; vLLM's own scheduler with our connector and a stand-in for its workers, on a CPU.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
# the stand-in belongs to the tests
sys.path.insert(0, str(ROOT))

from vllm.sampling_params import SamplingParams  # noqa: E402
from vllm.v1.request import Request  # noqa: E402

from cachestore.block import OpaqueSpec  # noqa: E402
from cachestore.hashing import chain, opaque_chain  # noqa: E402
from cachestore.integrations.opaque import OpaquePages  # noqa: E402
from cachestore.service.client import RemoteStore  # noqa: E402
from cachestore.service.server import CacheStoreServer  # noqa: E402
from cachestore.service.settings import ServiceSettings  # noqa: E402
from cachestore.store.base import BlockPlan  # noqa: E402
from cachestore.store.compose import compose  # noqa: E402
from tests.integrations.vllm.engine import Engine, Shape, answer  # noqa: E402

PROMPT = 16_000
LOADED = 2048
LARGE = Shape(layers=32, kv_heads=8, head_dim=128)
SLOT = 2 << 20
CALLS = (
    "on_new_request",
    "get_num_new_matched_tokens",
    "update_state_after_alloc",
    "build_connector_meta",
    "update_connector_output",
    "request_finished",
    "get_kv_connector_stats",
)
"""What vLLM's scheduler calls."""


def _serve(pipe: Pipe) -> None:
    with (
        compose({"tiers": [{"name": "cpu", "capacity": "2GiB"}], "codecs": {"name": "raw"}}) as store,
        CacheStoreServer(store, ServiceSettings(port=0), "bench") as server,
    ):
        pipe.send(server.address)
        pipe.recv()


@contextmanager
def served() -> Iterator[str]:
    """The address of a store in another process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    yield ours.recv()
    ours.send(None)
    process.join(10)


class Idle(Engine):
    """Computes nothing: for what vLLM and the connector cost beside the model."""

    def _forward(self, output: Any) -> dict[str, list[int]]:
        sampled: dict[str, list[int]] = {}
        for name, count in output.num_scheduled_tokens.items():
            self.computed += count
            sampled[name] = [1]
        return sampled


def match_ms(address: str, folder: Path, rounds: int) -> float:
    """The first `get_num_new_matched_tokens` of a request whose whole prompt is stored, hashing included."""
    engine = Idle(folder / "small", address, pages=64)
    scheduling, tokens = engine.scheduler.connector._scheduling, random.Random(1).choices(range(1, 4000), k=PROMPT)
    spec, took = scheduling.spec, []
    data = np.zeros(sum(plane.raw_bytes for plane in spec.planes()), dtype=np.uint8)
    keys = chain(spec, tokens)
    plans = [BlockPlan(key, spec.block_tokens, spec.planes()) for key in keys.keys]
    with scheduling.store.put(keys.fingerprint, plans) as put:
        for index in range(len(plans)):
            put.write(index, 0, data)
        put.commit()
    while scheduling._mirror.lookup(keys).ready < len(keys):
        time.sleep(0.01)
    for number in range(rounds):
        request = Request(f"m{number}", list(tokens), SamplingParams(max_tokens=1), None)
        engine.scheduler.connector.on_new_request(request)
        begun = time.perf_counter()
        found = engine.scheduler.connector.get_num_new_matched_tokens(request, 0)
        took.append(time.perf_counter() - begun)
        assert found == (PROMPT // 64 * 64, True)
    engine.close()
    return statistics.median(took) * 1e3


def load_ms(address: str, folder: Path, rounds: int) -> float:
    """From `add_request` until a request whose 256 MiB lie in the store is scheduled; every byte compared once."""
    engine = Idle(folder / "large", address, shape=LARGE, pages=LOADED // 16 + 8, budget=4096)
    scheduling, took = engine.scheduler.connector._scheduling, []
    spec = scheduling.spec
    tokens = random.Random(2).choices(range(1, 4000), k=LOADED)
    keys = chain(spec, tokens)
    nbytes = sum(plane.raw_bytes for plane in spec.planes())
    data = np.random.default_rng(1).integers(0, 256, (len(keys), nbytes), dtype=np.uint8)
    plans = [BlockPlan(key, spec.block_tokens, spec.planes()) for key in keys.keys]
    with scheduling.store.put(keys.fingerprint, plans) as put:
        for index in range(len(plans)):
            put.write(index, 0, data[index])
        put.commit()
    while scheduling._mirror.lookup(keys).ready < len(keys):
        time.sleep(0.01)
    for number in range(rounds):
        engine.scheduler.reset_prefix_cache()
        name, before = f"l{number}", engine.computed
        begun = time.perf_counter()
        engine.add(name, tokens, new=1)
        while engine.computed == before:
            engine.step()
            time.sleep(0.0005)
        took.append(time.perf_counter() - begun)
        if not number:
            _compare(engine, name, data)
        engine.run()
    assert engine.stats["loaded_blocks"] == rounds * len(keys), engine.stats
    engine.close()
    return statistics.median(took) * 1e3


def _compare(engine: Engine, name: str, data: np.ndarray) -> None:
    pages = torch.tensor(engine.held[name].pages[: LOADED // 16])
    shape = engine.shape
    blocks = torch.from_numpy(data).view(shape.dtype).view(-1, shape.layers, 2, shape.kv_heads, 64, shape.head_dim)
    for layer, each in enumerate(engine.names):
        found = engine.caches[each][pages].view(torch.int16)
        # [blocks, K/V, heads, pages, page tokens, dim] to [pages, heads, page tokens, K then V]
        wanted = blocks[:, layer].view(torch.int16).unflatten(3, (4, 16)).permute(0, 3, 2, 4, 1, 5)
        assert torch.equal(found, wanted.reshape(found.shape)), f"wrong bytes in {each}"


def blocked_ms(address: str, folder: Path, operations: int) -> tuple[float, int]:
    """The 99th percentile of how long one of our calls held the scheduler, and wrong answers, under a random load."""
    choose, took = random.Random(3), list[float]()
    engines = [
        Engine(folder / "small", address, pages=40),
        Engine(folder / "small", address, pages=24, layout="LBHNC", extra={"mirror": False}),
    ]
    for engine in engines:
        for name in CALLS:
            setattr(engine.scheduler.connector, name, _timed(getattr(engine.scheduler.connector, name), took))
    families = [choose.choices(range(1, 4000), k=400) for _ in range(5)]
    wanted = []
    for number in range(operations):
        engine, new = choose.choice(engines), choose.randrange(1, 20)
        tokens = choose.choice(families)[: choose.randrange(20, 200)] + choose.choices(range(1, 4000), k=20)
        engine.add(f"n{number}", tokens, new)
        wanted.append((engine, f"n{number}", tokens, new))
        for _ in range(4):
            choose.choice(engines).step()
    for engine in engines:
        engine.run(600.0)
    wrong = sum(engine.answers[name] != answer(tokens, new) for engine, name, tokens, new in wanted)
    for engine in engines:
        engine.close()
    return float(np.percentile(took, 99)) * 1e3, wrong


def _timed(call: Callable[..., Any], took: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            took.append(time.perf_counter() - begun)

    return timed


def tier_ratio(address: str, rounds: int) -> float:
    """Bytes a second of the tier's reads and writes of 2 MiB slots, beside those of the store's own client."""
    spec = OpaqueSpec("vllm", "0", "model", "one", "bfloat16", "bench", 0, 1, "sha256")
    slots = np.random.default_rng(1).integers(0, 256, (32, SLOT), dtype=np.uint8)
    ratios = []
    with RemoteStore(address) as store:
        pages = OpaquePages(store, spec, SLOT)
        for number in range(rounds):
            names = [f"{number} {index}".encode() for index in range(2 * len(slots))]
            ours, plain = names[: len(slots)], opaque_chain(spec, names[len(slots) :])
            begun = time.perf_counter()
            pages.put(ours, list(slots))
            assert pages.read(ours, list(slots)) == len(slots)
            middle = time.perf_counter()
            plans = [BlockPlan(key, 1, spec.planes(SLOT)) for key in plain.keys]
            with store.put(plain.fingerprint, plans) as put:
                for index, slot in enumerate(slots):
                    put.write(index, 0, slot)
                put.commit()
            with store.read(plain, into=list(slots)) as reading:
                assert sum(1 for _ in reading) == len(slots)
            ratios.append((time.perf_counter() - middle) / (middle - begun))
            store.clear()
    return statistics.median(ratios)


def main() -> None:
    """`integrations_vllm.py ROUNDS OPERATIONS`."""
    rounds, operations = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    with served() as address, tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        rows: dict[str, float] = {"integrations.vllm_match_ms": match_ms(address, place, 10 * rounds)}
        rows["integrations.vllm_blocked_ms"], wrong = blocked_ms(address, place, operations)
        rows["integrations.wrong_bytes"] = wrong
        rows["integrations.vllm_tier"] = tier_ratio(address, rounds)
        rows["integrations.vllm_load_ms"] = load_ms(address, place, rounds)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
