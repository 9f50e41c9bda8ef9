"""SGLang's own controller drives our backend: what leaves its host memory comes back byte for byte."""

import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("sglang", reason="SGLang is not installed here: make integrations")

from sglang.srt.mem_cache.hicache_storage import HiCacheStorageFailureInjector, PoolName

from cachestore.errors import ConfigError, Mismatch
from cachestore.integrations.sglang import CacheStoreBackend
from cachestore.integrations.sglang_host import HostPages
from cachestore.metrics import total
from tests.integrations.conftest import Served
from tests.integrations.sglang.engine import PAGE_TOKENS, Engine, Shape, host_pool

pytestmark = pytest.mark.slow

Make = Callable[..., Engine]
LATENT = Shape(latent=48)
KINDS = [
    (Shape(), "page_first", True),
    (Shape(), "page_first_direct", True),
    (Shape(), "page_head", True),
    (Shape(), "layer_first", False),
    (Shape(layers=1, kv_heads=8, head_dim=8192), "page_first", True),
    (LATENT, "page_first", True),
    (LATENT, "layer_first", False),
]
"""The last but two has runs that are read plane by plane."""


def tokens(family: int, pages: int) -> list[int]:
    return random.Random(family).choices(range(1, 5000), k=pages * PAGE_TOKENS)


def figure(engine: Engine, name: str, **labels: str) -> int:
    return total(engine.backend.figures(), name, **labels)


@pytest.mark.parametrize(("shape", "layout", "zero_copy"), KINDS)
def test_pages_come_back_to_another_engine_by_either_interface(
    shape: Shape, layout: str, zero_copy: bool, engine: Make
) -> None:
    one = engine(shape=shape, layout=layout, zero_copy=zero_copy)
    two = engine(shape=shape, layout=layout, zero_copy=False)
    prompt = tokens(1, 10)
    assert one.store(prompt) == 10
    for each in (one, two):
        assert each.load(prompt) == 10
        assert each.load(prompt[: 5 * PAGE_TOKENS] + tokens(2, 5)) == 5
        assert each.load(tokens(3, 4)) == 0
    assert two.store(tokens(4, 6)) == 6 and one.load(tokens(4, 6)) == 6


def test_prompts_longer_than_a_batch(engine: Make) -> None:
    one = engine(pages=400)
    assert one.store(tokens(1, 300)) == 300
    assert one.load(tokens(1, 300)) == 300
    assert figure(one, "loaded_pages") == figure(one, "saved_pages") == 300


def test_pages_of_other_ranks_models_and_layouts_are_misses(engine: Make) -> None:
    prompt = tokens(1, 4)
    assert engine(rank=(0, 2)).store(prompt) == 4
    others: list[dict[str, Any]] = [
        {"rank": (1, 2)},
        {"rank": (0, 1)},
        {"rank": (0, 4)},
        {"rank": (0, 2), "model": "other/model"},
        {"rank": (0, 2), "revision": "two"},
        {"rank": (0, 2), "layout": "page_first_direct"},
        {"rank": (0, 2), "page_tokens": 2 * PAGE_TOKENS},
        {"rank": (0, 2), "shape": Shape(dtype=torch.float16)},
        {"rank": (0, 2), "shape": Shape(kv_heads=4, head_dim=8)},
    ]
    for other in others:
        assert engine(**other).load(prompt) == 0, other
    assert engine(rank=(0, 2)).load(prompt) == 4


def test_ranks_of_latent_attention_share_pages_that_one_of_them_writes(engine: Make) -> None:
    prompt = tokens(1, 4)
    first, second = (engine(shape=LATENT, rank=(rank, 2)) for rank in range(2))
    assert first.store(prompt) == 4
    assert second.load(prompt) == 4
    assert second.store(tokens(2, 4)) == 0 and first.load(tokens(2, 4)) == 0


def test_many_threads_at_once(engine: Make) -> None:
    engines = [engine() for _ in range(4)]
    wrong: list[BaseException] = []

    def work(one: Engine, seed: int) -> None:
        choose = random.Random(seed)
        try:
            for _ in range(12):
                prompt = tokens(choose.randrange(5), choose.randrange(1, 12))
                one.store(prompt)
                assert one.load(prompt) == len(prompt) // PAGE_TOKENS
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(one, seed)) for seed, one in enumerate(engines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_lost_between_query_and_load_is_a_miss(engine: Make, served: Served) -> None:
    one = engine()
    assert one.store(tokens(1, 8)) == 8
    assert one.load(tokens(1, 8), between=served.store.namespace("default").clear) == 0
    assert one.load(tokens(1, 8)) == 0


def test_a_store_that_dies_is_a_miss_and_counted(engine: Make, served: Served) -> None:
    one = engine(timeout="2s", lookup_timeout="1s")
    assert one.store(tokens(1, 8)) == 8
    assert one.load(tokens(1, 8), between=served.stop) == 0
    assert one.load(tokens(1, 8)) == 0
    assert one.store(tokens(2, 8)) == 0
    one.backend.clear()
    for operation in ("load", "lookup", "save", "clear"):
        assert figure(one, "store_failures", operation=operation) >= 1
    assert one.controller.backup_thread.is_alive() and one.controller.prefetch_thread.is_alive()


def test_what_the_store_refuses_is_not_saved(engine: Make) -> None:
    one = engine()
    page = one.pool.get_dummy_flat_data_page()
    good = one.keys(tokens(1, 1))
    for key in ("short", "z" * 64, ""):
        assert not one.backend.set(key, page) and not one.backend.exists(key) and one.backend.get(key) is None
    assert not one.backend.set(good[0], page[:-1])
    assert one.backend.batch_set_v1(good, torch.arange(PAGE_TOKENS) + (1 << 30)) == [False]
    assert one.backend.set(good[0], page) and one.backend.get(good[0], page[:-1]) is None
    found = one.backend.get(good[0])
    assert torch.equal(found, page) and found.dtype == page.dtype


def test_nothing_is_written_outside_the_pages_that_were_asked_for(engine: Make) -> None:
    one = engine()
    one.store(tokens(1, 4))
    one.pool.kv_buffer.fill_(7)
    assert one.load(tokens(1, 4)) == 4
    # load takes and blanks four pages
    changed = (one.pool.kv_buffer != 7).flatten(2).any(-1).any(0).sum()
    assert changed == 4 * PAGE_TOKENS


def test_sglangs_own_failure_injector(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE", "0.3")
    one, loaded = engine(), 0
    assert isinstance(one.backend, HiCacheStorageFailureInjector)
    for family in range(40):
        one.store(tokens(family % 6, 3))
        loaded += one.load(tokens(family % 6, 4))
    assert loaded


def test_metrics_are_what_happened_since_the_last_time(engine: Make) -> None:
    one = engine()
    one.store(tokens(1, 6))
    one.load(tokens(1, 6))
    stats = one.backend.get_stats()
    assert (stats.prefetch_pgs, stats.backup_pgs) == ([6], [6])
    assert min(stats.prefetch_bandwidth + stats.backup_bandwidth) > 0
    assert one.backend.get_stats().prefetch_pgs == []


def test_what_is_not_known_is_refused_with_the_reason(served: Served) -> None:
    class Strange(type(host_pool(Shape(), "page_first", 4))):  # type: ignore[misc]
        """A pool that we never saw."""

    pool = host_pool(Shape(), "page_first", 4)
    pool.layout = "page_unified"
    with pytest.raises(ConfigError, match="of layout 'page_unified', whose pages are not known here"):
        HostPages(pool)
    pool.layout, pool.__class__ = "page_first", Strange
    with pytest.raises(ConfigError, match="keeps this model in a Strange"):
        HostPages(pool)
    with pytest.raises(ConfigError, match="adress"):
        Engine(served.address, adress="x")
    with pytest.raises(ConfigError, match="revision: nothing says which weights"):
        Engine(served.address, revision="")
    with pytest.raises(ConfigError, match="with LoRA give a `revision`"):
        Engine(served.address, revision="", server={"enable_lora": True})
    with pytest.raises(ConfigError, match="interface_v1: pages of --hicache-mem-layout layer_first"):
        Engine(served.address, layout="layer_first")


def test_a_prefix_that_needs_more_than_kv_is_refused(engine: Make) -> None:
    one = engine()
    one.backend.register_mem_host_pool_v2(one.pool, PoolName.KV)
    with pytest.raises(ConfigError, match="state of this model in the pool 'swa'"):
        one.backend.register_mem_host_pool_v2(one.pool, PoolName.SWA)


def test_a_layout_that_is_not_the_one_it_names_is_found_at_the_start(engine: Make, served: Served) -> None:
    pool, config = host_pool(Shape(), "page_first", 8), SimpleNamespace(extra_config={"address": served.address})
    right = pool.get_page_buffer_meta

    def swapped(indices: torch.Tensor) -> tuple[list[int], list[int]]:
        pointers, sizes = right(indices)
        return [pointers[at ^ 1] for at in range(len(pointers))], sizes

    pool.get_page_buffer_meta = swapped
    backend = CacheStoreBackend(config, {})
    with pytest.raises(Mismatch, match="known bytes in a page of layout 'page_first'"):
        backend.register_mem_pool_host(pool)
    backend.close()


def test_no_wrong_bytes_in_many_operations(engine: Make) -> None:
    choose = random.Random(5)
    engines = [engine(), engine(zero_copy=False)]
    for _ in range(150):
        one, prompt = choose.choice(engines), tokens(choose.randrange(12), choose.randrange(1, 9))
        if choose.random() < 0.5:
            one.store(prompt)
        else:
            one.load(prompt)
