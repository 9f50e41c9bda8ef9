"""vLLM's own tiering manager drives our tier: what leaves its CPU slots comes back byte for byte."""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from cachestore.errors import ConfigError
from cachestore.integrations.vllm_tier import CacheStoreTier
from cachestore.metrics import total
from tests.integrations.conftest import Served

pytestmark = pytest.mark.slow

PAGE = 64 << 10
SLOTS = 16


def config(address: str, page: int = PAGE, slots: int = SLOTS, **own: Any) -> OffloadingConfig:
    tier = {"type": "CacheStoreTier", "module_path": "cachestore.integrations.vllm_tier", "address": address}
    return OffloadingConfig(
        groups=(OffloadingGroupConfig(tokens_per_block=16, layer_names=("l0",), group_id=0),),
        worker_kv_bytes_per_block=page,
        enable_kv_cache_events=False,
        engine_id=uuid.uuid4().hex,
        extra_config={
            "cpu_bytes_to_use": slots * page,
            "secondary_tiers": [{**tier, "revision": "one", **own}],
        },
        model=OffloadingModelConfig("model", "bfloat16"),
        cache=OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
        parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, True),
    )


class Engine:
    """vLLM's tiering manager, driven as its scheduler does."""

    def __init__(self, address: str, **own: Any) -> None:
        self.manager = TieringOffloadingSpec(config(address, **own)).get_manager()
        self.tier: CacheStoreTier = self.manager.secondary_tiers[0]
        self.slots = self.tier._slots

    def step(self) -> None:
        with self.manager.lock:
            self.manager.on_schedule_end(ScheduleEndContext([], []))

    def settle(self) -> None:
        until = time.monotonic() + 20
        while self.manager.has_pending_work():
            assert time.monotonic() < until
            self.step()
            time.sleep(0.001)

    @contextmanager
    def request(self) -> Iterator[ReqContext]:
        context = ReqContext(uuid.uuid4().hex)
        with self.manager.lock:
            self.manager.on_new_request(context)
        yield context
        with self.manager.lock:
            self.manager.on_request_finished(context)

    def store(self, keys: Sequence[bytes]) -> None:
        with self.request() as context:
            self.store_for(context, keys)

    def store_for(self, context: ReqContext, keys: Sequence[bytes]) -> None:
        with self.manager.lock:
            prepared = self.manager.prepare_store(keys, context)
            for key, slot in zip(prepared.keys_to_store, prepared.store_spec.chunk_ids, strict=True):
                self.slots[slot] = content(key)
            if prepared.keys_to_store:
                self.manager.complete_store(prepared.keys_to_store, context)
        self.settle()

    def load(self, keys: Sequence[bytes], steps: int = 2000) -> int:
        """How many leading keys came into CPU slots; their bytes are compared."""
        with self.request() as context:
            for _ in range(steps):
                with self.manager.lock:
                    found = [self.manager.lookup(key, context) for key in keys]
                hits = next((at for at, each in enumerate(found) if each is not LookupResult.HIT), len(found))
                if hits == len(keys) or found[hits] is LookupResult.MISS:
                    break
                self.step()
                time.sleep(0.001)
            else:
                raise AssertionError("the keys stay pending for ever")
            with self.manager.lock:
                loaded = self.manager.prepare_load(keys[:hits], context)
                for key, slot in zip(keys[:hits], loaded.chunk_ids if hits else (), strict=True):
                    assert np.array_equal(self.slots[slot], content(key)), "wrong bytes"
                self.manager.complete_load(keys[:hits], context)
        return hits

    def reset(self) -> None:
        """As vLLM does when weights may have been replaced."""
        with self.manager.lock:
            self.manager.reset_cache()
            self.manager.on_reset_flushed()

    def close(self) -> None:
        self.slots = None
        self.manager.shutdown()


def content(key: bytes) -> np.ndarray:
    seed = np.frombuffer(sha256(key).digest(), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed[:2])).integers(0, 256, PAGE, dtype=np.uint8)


def keys(prompt: str, count: int) -> list[bytes]:
    return [make_offload_key(sha256(f"{prompt} {index}".encode()).digest(), 0) for index in range(count)]


@pytest.fixture
def engine(served: Served) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**own: Any) -> Engine:
        made.append(Engine(served.address, **own))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_slots_that_were_evicted_come_back_also_to_another_engine(engine: Callable[..., Engine]) -> None:
    one, two = engine(), engine()
    first, second = keys("a", 10), keys("b", 12)
    one.store(first)
    one.store(second)
    assert one.load(first) == 10
    assert two.load(first) == 10
    assert two.load(second + keys("nobody", 2)) == 12
    assert two.load(keys("nobody", 4)) == 0


def test_what_is_lost_between_lookup_and_load_is_a_miss(engine: Callable[..., Engine], served: Served) -> None:
    one, wanted = engine(), keys("a", 8)
    one.store(wanted)
    two = engine()
    with two.request() as context:
        for _ in range(500):
            with two.manager.lock:
                found = {two.tier.lookup(key, context) for key in wanted}
                two.tier.on_schedule_end(None)
            if found == {LookupResult.HIT}:
                break
            time.sleep(0.002)
        served.store.namespace("default").clear()
        # the verdicts of the lookup are still remembered, since the request is
        assert two.load(wanted) == 0
    assert two.load(wanted) == 0


def test_other_settings_share_nothing(engine: Callable[..., Engine]) -> None:
    one, wanted = engine(), keys("a", 4)
    one.store(wanted)
    assert engine(revision="two").load(wanted) == 0
    assert engine().load(wanted) == 4


def test_after_a_reset_nothing_of_before_is_found(engine: Callable[..., Engine]) -> None:
    one, wanted = engine(), keys("a", 4)
    one.store(wanted)
    one.reset()
    assert one.load(wanted) == 0
    # under this engine's own name
    one.store(wanted)
    one.store(keys("b", SLOTS))
    assert one.load(wanted) == 4
    one.reset()
    assert one.load(wanted) == 0
    assert engine().load(wanted) == 4


def test_requests_from_before_a_reset_store_nothing_more(engine: Callable[..., Engine]) -> None:
    one, wanted = engine(), keys("a", 4)
    with one.request() as before:
        # asked, and not answered yet
        with one.manager.lock:
            assert one.tier.lookup(wanted[0], before) is LookupResult.RETRY
        one.step()
        one.reset()
        one.store_for(before, wanted)
        one.store(keys("b", SLOTS))
        assert one.load(wanted) == 0
    one.store(wanted)
    one.store(keys("b", SLOTS))
    assert one.load(wanted) == 4


def test_a_store_that_goes_away_is_a_miss(
    engine: Callable[..., Engine], served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    one, wanted = engine(timeout="500ms"), keys("a", 4)
    one.store(wanted)
    two = engine(timeout="500ms")
    served.stop()
    assert two.load(wanted) == 0
    two.store(keys("b", 2))
    assert two.load(keys("b", 2)) == 2
    two.store(keys("c", 2))
    assert two.load(keys("d", 2)) == 0
    told = [record.getMessage() for record in caplog.records if record.name.startswith("cachestore.integrations")]
    assert sorted(each.partition(",")[0] for each in told) == ["nothing was looked up", "pages were not moved"]


def test_a_job_that_fails_for_reasons_unknown_moves_nothing_and_is_told(
    engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    one, two, wanted = engine(), engine(), keys("a", 4)
    one.tier._put = broken
    one.store(wanted)
    assert two.load(wanted) == 0
    told = [record.getMessage() for record in caplog.records if record.name.startswith("cachestore.integrations")]
    assert told == ["a job failed"]


def test_hashes_that_may_collide_are_not_stored(engine: Callable[..., Engine], served: Served) -> None:
    one = engine()
    with one.request() as context, one.manager.lock:
        assert one.tier.lookup(bytes(16 + 4), context) is LookupResult.RETRY
    one.tier.on_schedule_end(None)
    one.store([bytes(16) + bytes(4)])
    assert total(list(served.store.namespace("default").stats()), "put_blocks") == 0


def test_settings_that_are_unknown_are_refused(served: Served) -> None:
    with pytest.raises(ConfigError, match="secondary_tiers"):
        Engine(served.address, adress="x")
    with pytest.raises(ConfigError, match=r"use the CacheStoreOffloadingConnector, .* or give a `revision`"):
        Engine(served.address, revision="")


def test_no_wrong_bytes_in_many_operations(engine: Callable[..., Engine]) -> None:
    choose = random.Random(5)
    engines, prompts = [engine(), engine()], {f"prompt {number}": choose.randrange(1, 9) for number in range(12)}
    for _ in range(150):
        prompt = choose.choice(list(prompts))
        one = choose.choice(engines)
        if choose.random() < 0.5:
            one.store(keys(prompt, prompts[prompt]))
        else:
            one.load(keys(prompt, prompts[prompt] + choose.randrange(2)))
