"""Storms of evictions, clocks that jump, values of every kind: no wrong bytes."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np
import pytest

from cachestore.block import Block, BlockSpec, Slot
from cachestore.hashing import chain
from cachestore.metrics import total
from cachestore.store.base import put_blocks
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, random_tokens, same, write_blocks
from tests.store.abuse.values import SPEC, read

HOUR = 3600.0


def test_bytes_are_right_in_a_storm_of_evictions(tiered: TieredStore) -> None:
    prompts = [random_prompt(SPEC, 6, seed) for seed in range(8)]
    views = [tiered.namespace(name) for name in "ab"]
    until = time.monotonic() + 1.5

    def storm(seed: int) -> tuple[int, int]:
        random, hits, wrong = Random(seed), 0, 0
        while time.monotonic() < until:
            view, (keys, blocks) = random.choice(views), random.choice(prompts)
            count = random.randint(1, 6)
            if random.random() < 0.4:
                put_blocks(view, keys.fingerprint, blocks[:count])
            elif random.random() < 0.1:
                view.clear("cpu")
            else:
                into = [np.empty(1792, np.uint8) for _ in range(count)] if random.random() < 0.5 else None
                with view.read(keys.first(count), into=into) as reading:
                    for index, (block, _) in enumerate(reading):
                        hits += 1
                        wrong += not same(block, blocks[index])
        return hits, wrong

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(storm, range(8)))
    assert sum(wrong for _, wrong in results) == 0 and sum(hits for hits, _ in results) > 10
    figures = [figure for view in views for figure in view.stats()]
    assert total(figures, "corruptions") == 0 and total(figures, "evicted", tier="cpu") > 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_wall_clock_that_jumps_ends_no_lease_and_no_block_without_a_time(
    tiered: TieredStore, store: LocalStore, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    keys, blocks = random_prompt(SPEC, 4)
    put_blocks(store, keys.fingerprint, blocks)
    lease = store.lease(keys)
    short, values = random_prompt(SPEC, 2, 2)
    with store.put(short.fingerprint, plans_of(values), ttl=0.2) as put:
        write_blocks(put, values)
        put.commit()
    assert tiered.settle()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    tiered.expire()
    with store.read(keys, lease=lease) as reading:
        assert all(map(same, (block for block, _ in reading), blocks))
    store.clear("cpu")
    assert all(map(same, read(store, keys), blocks)) and len(read(store, keys)) == 4
    if jump > 0:
        assert store.lookup(short).runs == () or {run.tier for run in store.lookup(short).runs} <= {"redis", "gpu"}
    monkeypatch.undo()


@pytest.mark.parametrize("codec", ["raw", "lz4", "entropy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_bit_of_every_value_comes_back(open_store: Callable[..., TieredStore], dtype: str, codec: str) -> None:
    spec = BlockSpec("test/values", "0" * 40, dtype, (Slot(1, 32, 32),), 1, block_tokens=2048)
    store = open_store("8MiB", codec=codec).namespace("a")
    words = np.arange(1 << 16, dtype="<u2")
    patterns = {
        # every half-precision value there is: NaNs with every payload, infinities, -0.0, subnormals
        "all": words, "nan": words | 0x7F81, "subnormal": words & 0x807F, "negative zero": words * 0 + 0x8000,
        "infinity": words * 0 + 0x7F80,
    }  # fmt: skip
    for number, pattern in enumerate(patterns.values()):
        tokens = random_tokens(spec.block_tokens, number)
        keys, planes = chain(spec, tokens), spec.planes()
        data = [np.resize(pattern.view(np.uint8), plane.raw_bytes) for plane in planes]
        block = Block(keys.keys[0], spec.block_tokens, planes, data)
        put_blocks(store, keys.fingerprint, [block])
        (found,) = read(store, keys)
        assert same(found, block)
