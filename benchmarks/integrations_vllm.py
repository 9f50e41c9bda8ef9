"""The rows of `benchmarks/integrations.py` that need vLLM; run by it in vLLM's environment.

vLLM's own scheduler with our connector and a stand-in for its workers, on a CPU; vLLM's own tiering manager with our
tier. The store is another process.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from integrations_store import ROOT, progress, row, served

# the stand-ins belong to the tests
sys.path.insert(0, str(ROOT))

from vllm.sampling_params import SamplingParams
from vllm.v1.kv_offload.base import ReqContext
from vllm.v1.kv_offload.tiering.base import TransferJob
from vllm.v1.request import Request

from cachestore.block import OpaqueSpec
from cachestore.hashing import chain, opaque_chain
from cachestore.service.client import RemoteStore
from cachestore.store.base import BlockPlan
from tests.integrations.vllm import test_tier as tier
from tests.integrations.vllm.engine import Engine
from tests.integrations.vllm.workers import Workers, answer

PROMPT = 16_000
SLOT, SLOTS = 2 << 20, 32
CALLS = (
    "on_new_request",
    "get_num_new_matched_tokens",
    "update_state_after_alloc",
    "build_connector_meta",
    "update_connector_output",
    "request_finished",
    "get_kv_connector_stats",
    "take_events",
)
"""What vLLM's scheduler calls."""


class Idle(Workers):
    """Computes nothing: for what vLLM and the connector cost beside the model."""

    def forward(self, output: Any) -> dict[str, list[int]]:
        self.computed += sum(output.num_scheduled_tokens.values())
        return {name: [1] for name in output.num_scheduled_tokens}


class Counting(Workers):
    """Counts wrong bytes and goes on."""

    wrong_reads = 0

    def compare(self, name: str, computed: int) -> None:
        try:
            super().compare(name, computed)
        except AssertionError as error:
            progress(str(error))
            self.wrong_reads += 1


def match_ms(address: str, folder: Path, rounds: int) -> float:
    """The first `get_num_new_matched_tokens` of a request whose whole prompt is stored, hashing included."""
    engine = Engine(folder / "small", address, pages=64, work=Idle)
    connector, tokens = engine.scheduler.connector, random.Random(1).choices(range(1, 4000), k=PROMPT)
    scheduling, took = connector._scheduling, []
    spec = scheduling.spec
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
        connector.on_new_request(request)
        begun = time.perf_counter()
        found = connector.get_num_new_matched_tokens(request, 0)
        took.append(time.perf_counter() - begun)
        assert found == (PROMPT // 64 * 64, True)
    engine.close()
    return statistics.median(took) * 1e3


def tier_ratio(address: str, rounds: int) -> float:
    """Bytes a second of the tier's loads and stores of 2 MiB slots, beside those of the store's own client.

    The tier is the one that vLLM made; each of its jobs is submitted, waited for and told as ended.
    """
    engine = tier.Engine(address, page=SLOT, slots=SLOTS)
    spec, jobs = OpaqueSpec("vllm", "0", "model", "one", "bfloat16", "bench", 0, 1, "sha256"), count()
    engine.slots[:] = np.random.default_rng(1).integers(0, 256, engine.slots.shape, dtype=np.uint8)

    def through_the_tier(store: RemoteStore, names: list[bytes]) -> None:
        for submit in (engine.tier.submit_store, engine.tier.submit_load):
            loads = submit == engine.tier.submit_load
            submit(TransferJob(next(jobs), names, np.arange(SLOTS), loads, ReqContext("bench")))
            # not drain_jobs, after which the tier finds nothing of before
            wait(list(engine.tier._running.values()))
            (result,) = engine.tier.get_finished_jobs()
            assert result.success

    def plainly(store: RemoteStore, names: list[bytes]) -> None:
        keys = opaque_chain(spec, names)
        plans = [BlockPlan(key, 1, spec.planes(SLOT)) for key in keys.keys]
        with store.put(keys.fingerprint, plans) as put:
            for index, slot in enumerate(engine.slots):
                put.write(index, 0, slot)
            put.commit()
        with store.read(keys, into=list(engine.slots)) as reading:
            assert sum(1 for _ in reading) == SLOTS

    with RemoteStore(address) as store:
        ratios = []
        # the first round maps the memory
        for number in range(rounds + 1):
            took = {}
            ways = (through_the_tier, plainly) if number % 2 else (plainly, through_the_tier)
            for way in ways:
                names = tier.keys(f"{way.__name__} {number}", SLOTS)
                begun = time.perf_counter()
                way(store, names)
                took[way] = time.perf_counter() - begun
            ratios.append(took[plainly] / took[through_the_tier])
            store.clear()
    engine.close()
    return statistics.median(ratios[1:])


def connector_operations(address: str, folder: Path, operations: int) -> tuple[float, int]:
    """How long one of our calls held the scheduler at the 99th percentile, in ms; wrong answers, and reads of pages.

    Random operations on two engines that share a store: requests of shared prefixes, aborts, steps of vLLM, its cache
    emptied, blocks deleted. Every engine compares every page that it reads.
    """
    choose, took = random.Random(3), list[float]()
    engines = [
        Engine(folder / "small", address, pages=40, work=Counting),
        Engine(folder / "small", address, pages=24, layout="LBHNC", extra={"mirror": False}, work=Counting),
    ]
    for engine in engines:
        for name in CALLS:
            setattr(engine.scheduler.connector, name, _timed(getattr(engine.scheduler.connector, name), took))
    families = [choose.choices(range(1, 4000), k=400) for _ in range(8)]
    asked: list[tuple[Engine, str, list[int], int]] = []
    with RemoteStore(address) as store:
        for number in range(operations):
            engine = choose.choice(engines)
            what = choose.choices(("step", "add", "abort", "forget", "delete"), (70, 25, 3, 1, 1))[0]
            if what == "add" and len(engine.scheduler.requests) < 8:
                base = choose.choice(families)
                tokens = base[: choose.randrange(20, 200)] + choose.choices(range(1, 4000), k=choose.randrange(1, 40))
                asked.append((engine, f"n{number}", tokens, choose.randrange(1, 20)))
                engine.add(*asked[-1][1:])
            elif what == "abort" and asked:
                victim, name, *_ = asked.pop(choose.randrange(len(asked)))
                victim.abort(name)
            elif what == "forget":
                engine.scheduler.reset_prefix_cache()
            elif what == "delete":
                spec = engine.scheduler.connector._scheduling.spec
                store.delete(chain(spec, choose.choice(families)[:128]).behind(choose.randrange(2)))
            else:
                engine.step()
            if number % 1000 == 999:
                progress(f"connector: {number + 1} operations")
    for engine in engines:
        engine.run(120.0)
    wrong = sum(engine.answers[name] != answer(tokens, new) for engine, name, tokens, new in asked)
    loaded = sum(engine.stats.get("loaded_blocks", 0) for engine in engines)
    progress(f"connector: {len(asked)} answers, {loaded} blocks loaded")
    for engine in engines:
        engine.close()
    return float(np.percentile(took, 99)) * 1e3, wrong + sum(engine.workers.wrong_reads for engine in engines)


def _timed(call: Callable[..., Any], took: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            took.append(time.perf_counter() - begun)

    return timed


def tier_operations(address: str, operations: int) -> int:
    """Wrong slots in so many random stores and loads of two engines of one store."""
    choose, wrong = random.Random(5), 0
    engines = [tier.Engine(address), tier.Engine(address)]
    prompts = {f"prompt {number}": choose.randrange(1, 9) for number in range(200)}
    for number in range(operations):
        prompt, engine = choose.choice(list(prompts)), choose.choice(engines)
        if choose.random() < 0.5:
            engine.store(tier.keys(prompt, prompts[prompt]))
        else:
            try:
                engine.load(tier.keys(prompt, prompts[prompt] + choose.randrange(2)))
            except AssertionError as error:
                progress(str(error))
                wrong += 1
        if number % 1000 == 999:
            progress(f"tier: {number + 1} operations")
    for engine in engines:
        engine.close()
    return wrong


@contextmanager
def place() -> Iterator[tuple[str, Path]]:
    """A store of its own for each row, and a folder."""
    with served() as address, tempfile.TemporaryDirectory() as folder:
        yield address, Path(folder)


def main() -> None:
    """`integrations_vllm.py ROUNDS OPERATIONS`."""
    rounds, operations = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    with place() as (address, folder):
        row("vllm_match_ms", match_ms(address, folder, 10 * rounds))
    with place() as (address, _):
        row("vllm_tier", tier_ratio(address, 2 * rounds))
    with place() as (address, folder):
        blocked, wrong = connector_operations(address, folder, operations)
    row("vllm_blocked_ms", blocked)
    row("wrong_bytes.vllm_connector", wrong)
    with place() as (address, _):
        row("wrong_bytes.vllm_tier", tier_operations(address, operations))


if __name__ == "__main__":
    main()
