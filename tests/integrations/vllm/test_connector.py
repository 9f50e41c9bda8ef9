"""vLLM's own scheduler with our connector: prefixes come from the store, byte for byte."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

import torch
from safetensors.numpy import save_file
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.request import Request

from cachestore.errors import ConfigError, Mismatch, Unavailable
from cachestore.hashing import Chain
from cachestore.integrations import vllm_layout
from cachestore.integrations.vllm_layout import LAYOUTS, layer_names
from cachestore.integrations.vllm_scheduling import HANDOFF
from cachestore.store.base import Loaded, Lookup
from tests.integrations.conftest import Served
from tests.integrations.vllm.engine import Engine
from tests.integrations.vllm.model import Shape
from tests.integrations.vllm.workers import answer

pytestmark = pytest.mark.slow

Make = Callable[..., Engine]


class Breaking:
    """A store whose reads break off behind so many blocks."""

    def __init__(self, store: Any, blocks: int) -> None:
        self._store, self._blocks = store, blocks

    @contextmanager
    def read(self, chain: Chain, **more: Any) -> Iterator[Iterator[Loaded]]:
        with self._store.read(chain, **more) as reading:
            yield self._some(reading)

    def _some(self, reading: Any) -> Iterator[Loaded]:
        yield from islice(reading, self._blocks)
        raise Unavailable("nobody is there any more")


class Late:
    """A store that is told late of what is put."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put(self, *given: Any, **more: Any) -> Any:
        time.sleep(0.2)
        return self._store.put(*given, **more)


@pytest.fixture
def engine(served: Served, tmp_path: Path) -> Iterator[Make]:
    made: list[Engine] = []

    def make(**settings: Any) -> Engine:
        made.append(Engine(tmp_path / "model", served.address, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def prompt(length: int, seed: int = 1) -> list[int]:
    choose = random.Random(seed)
    return [choose.randrange(1, 4000) for _ in range(length)]


def asked(engine: Engine, name: str, tokens: list[int], new: int = 4, **more: Any) -> int:
    """How many tokens were computed for a request that is answered, as it would be without a store."""
    before = engine.computed
    engine.add(name, tokens, new, **more)
    engine.run()
    assert engine.answers[name] == answer(tokens, new)
    return engine.computed - before


@pytest.mark.parametrize("mirror", [True, False])
def test_another_engine_finds_the_prefix(engine: Make, mirror: bool) -> None:
    one, shared = engine(), prompt(300)
    assert asked(one, "a", shared) == 303
    one.settle()
    two = engine(extra={"mirror": mirror})
    if mirror:
        assert two.scheduler.connector._scheduling._mirror.settle(5.0)
    # 4 blocks of 64 tokens; what is found is in vLLM's own cache from then on
    assert asked(two, "a", shared) == 303 - 256
    assert asked(two, "b", shared[:200] + prompt(50, 2)) == 250 - 192 + 3
    assert two.stats["loaded_blocks"] == 4
    # of a prompt that is found whole the last token is computed again
    three = engine(extra={"mirror": mirror})
    assert asked(three, "c", shared[:256]) == 1 + 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_that_is_known_carries_the_same_bytes(engine: Make, layout: str) -> None:
    one, shared = engine(extra={"layerwise": True, "mirror": False}), prompt(200)
    asked(one, "a", shared)
    one.settle()
    assert asked(engine(layout=layout, extra={"mirror": False}), "a", shared) == 203 - 192


def test_an_engine_with_nothing_else_to_do_waits_for_what_it_loads(engine: Make) -> None:
    one, shared = engine(pages=100), prompt(1300)
    asked(one, "a", shared, new=1)
    one.settle()
    two = engine(pages=100, extra={"idle_wait": "5s"})
    assert two.scheduler.connector._scheduling._mirror.settle(5.0)
    assert asked(two, "a", shared, new=1) == 1300 - 20 * 64
    assert two.stats["loaded_blocks"] == 20
    # one that loads, one that computes the rest, and one that tells workers of the end
    assert two.steps == 3


def test_what_is_in_vllms_own_cache_is_not_written_over(engine: Make) -> None:
    one, shared = engine(), prompt(256)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"mirror": False})
    # 6 of vLLM's pages, one and a half of our blocks
    asked(two, "b", [*shared[:96], *prompt(8, 5)], new=1)
    assert asked(two, "a", shared + prompt(10, 6)) == 10 + 3


def test_answers_are_saved_too(engine: Make) -> None:
    one, first = engine(), prompt(100)
    asked(one, "a", first, new=60)
    one.settle()
    turn = first + answer(first, 60)
    # 128 of the 159 tokens that were computed are whole blocks
    assert asked(engine(extra={"mirror": False}), "b", turn + prompt(20, 2)) == 180 - 128 + 3


def test_salts_and_adapters_are_kept_apart(engine: Make, tmp_path: Path) -> None:
    one, two, shared = engine(), engine(extra={"mirror": False}), prompt(130)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        save_file({}, tmp_path / name / "adapter.safetensors")
    (tmp_path / "y" / "adapter_config.json").write_text('{"lora_alpha": 2}')
    for index, name in enumerate(("x", "y"), 1):
        asked(one, name, shared, lora_request=LoRARequest("one", index, str(tmp_path / name)))
    asked(one, "salted", shared, cache_salt="theirs")
    one.settle()
    assert asked(two, "plain", shared) == 133
    assert asked(two, "other", shared, cache_salt="ours") == 133
    assert asked(two, "salted", shared, cache_salt="theirs") == 133 - 128
    assert asked(two, "x", shared, lora_request=LoRARequest("one", 3, str(tmp_path / "x"))) == 133 - 128
    # one that says not which it is
    assert asked(two, "z", shared, lora_request=LoRARequest("two", 4, "some/hub-id")) == 133
    assert two.stats["requests_left_alone"] == 1


def test_blocks_that_do_not_come_are_computed(engine: Make, served: Served) -> None:
    one, two, shared = engine(), engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    scheduling = two.scheduler.connector._scheduling
    store = served.store.namespace("default")
    # a mirror that does not know yet what was evicted
    assert scheduling._mirror.settle(10.0)
    scheduling._mirror.lookup = lambda asked: Lookup(4, ())
    two.add("b", shared)
    stored = scheduling._requests["b"].keys.grow(shared)
    store.delete(stored.behind(2).first(1))
    two.run()
    assert two.answers["b"] == answer(shared, 4)
    assert two.computed == 303 - 128
    store.clear()
    three = engine()
    mirror = three.scheduler.connector._scheduling._mirror
    assert mirror.settle(10.0)
    mirror.lookup = lambda asked: Lookup(4, ())
    assert asked(three, "c", shared) == 303
    assert three.stats["lost_blocks"] == 4


def test_a_store_that_goes_away_changes_no_answer(engine: Make, served: Served) -> None:
    one, shared = engine(extra={"timeout": "500ms"}), prompt(200)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"timeout": "500ms", "mirror": False})
    served.stop()
    begun = time.monotonic()
    assert asked(two, "b", shared) == 203
    assert time.monotonic() - begun < 10
    two.settle()


def test_aborts_give_all_pages_back(engine: Make) -> None:
    one, shared = engine(), prompt(300)
    asked(one, "a", shared)
    one.settle()
    two = engine(extra={"mirror": False})
    pool = two.scheduler.kv_cache_manager.block_pool
    for steps in range(6):
        two.add(f"b{steps}", shared + prompt(20, steps))
        for _ in range(steps):
            two.step()
        two.abort(f"b{steps}")
        two.run()
    # an aborted request whose load is on its way keeps its pages until that has ended
    until = time.monotonic() + 10
    while pool.get_num_free_blocks() < two.pages - 1:
        assert time.monotonic() < until
        two.step()
        time.sleep(0.002)
    assert asked(two, "c", shared) <= 303 - 256


def test_preempted_requests_go_on_from_the_store(engine: Make) -> None:
    # without a cache of vLLM's own, in which they would find what they lost
    one = engine(pages=24, caching=False, extra={"mirror": False})
    prompts = {f"r{seed}": prompt(100, seed) for seed in range(4)}
    for name, tokens in prompts.items():
        one.add(name, tokens, new=60)
    one.run(60.0)
    for name, tokens in prompts.items():
        assert one.answers[name] == answer(tokens, 60)
    # 4 requests of 10 pages do not fit into 23
    assert one.stats["loaded_blocks"] > 0


def test_one_engine_prefills_and_another_decodes(engine: Make) -> None:
    first = engine(transfer={"kv_role": "kv_producer"})
    second = engine(transfer={"kv_role": "kv_consumer"}, extra={"mirror": False})
    shared = prompt(300)
    assert asked(first, "a", shared, new=1, params={"do_remote_decode": True}) == 300
    params = first.params["a"]
    assert params["do_remote_prefill"] and params[HANDOFF] == 4
    # it begins to load although the blocks may still be being written
    assert asked(second, "a", shared, params=params) == 303 - 256
    assert second.stats["loaded_blocks"] == 4
    # nor if the store knows nothing of them yet
    saves = first.workers.connectors[0]._transfer.saves
    saves.store = Late(saves.store)
    late = prompt(300, 3)
    assert asked(first, "c", late, new=1, params={"do_remote_decode": True}) == 300
    assert asked(second, "c", late, params=first.params["c"]) == 303 - 256
    # a producer that died before it wrote anything
    assert asked(second, "b", prompt(300, 2), params={**params, HANDOFF: 4}) == 303
    # what anybody may write into a request ends nobody's engine
    for number, promise in enumerate(("x", [1], -4, 1.5, True, {"blocks": 4})):
        assert asked(second, f"x{number}", prompt(100, 20 + number), params={**params, HANDOFF: promise}) == 103


@pytest.mark.parametrize("tiered", ["4MiB"], indirect=True)
def test_what_is_handed_on_is_not_evicted(engine: Make) -> None:
    first = engine(transfer={"kv_role": "kv_producer"}, extra={"handoff_lease": "60s"})
    shared = prompt(300)
    asked(first, "plain", prompt(128, 2), new=1)
    asked(first, "a", shared, new=1, params={"do_remote_decode": True})
    first.settle()
    # the tier has room for fewer than 170 blocks
    strangers = engine(pages=80)
    for seed in range(10, 22):
        asked(strangers, f"s{seed}", prompt(15 * 64, seed), new=1)
        strangers.settle()
    assert asked(engine(extra={"mirror": False}), "plain", prompt(128, 2), new=1) == 128
    second = engine(transfer={"kv_role": "kv_consumer"}, extra={"mirror": False})
    assert asked(second, "a", shared, params=first.params["a"]) == 303 - 256


@pytest.mark.parametrize("ranks", [2, 4])
def test_engines_of_any_tensor_parallel_degree_share_blocks(engine: Make, ranks: int) -> None:
    shape = Shape(kv_heads=2)
    one, many, shared = engine(shape=shape), engine(shape=shape, ranks=ranks), prompt(300)
    assert asked(many, "a", shared) == 303
    many.settle()
    assert asked(engine(shape=shape, extra={"mirror": False}), "a", shared) == 303 - 256
    other = prompt(200, 2)
    asked(one, "b", other)
    one.settle()
    again = engine(shape=shape, ranks=ranks, layout="LBHNC", extra={"mirror": False})
    assert asked(again, "b", other) == 203 - 192
    assert asked(again, "a", shared) == 303 - 256
    # counted by each rank
    assert again.stats["loaded_blocks"] == ranks * (3 + 4)


def test_a_block_that_one_rank_did_not_get_is_computed_by_all(engine: Make, served: Served) -> None:
    one, shared = engine(ranks=2), prompt(300)
    asked(one, "a", shared)
    one.settle()
    two = engine(ranks=2)
    assert two.scheduler.connector._scheduling._mirror.settle(5.0)
    loads = two.workers.connectors[1]._transfer.loads
    loads.store = Breaking(loads.store, 2)
    assert asked(two, "b", shared) == 303 - 128
    assert two.stats["load_failures"] == 1 and two.stats["lost_blocks"] == 2


def test_heads_that_cannot_be_spread_are_refused(engine: Make) -> None:
    with pytest.raises(ConfigError, match="--tensor-parallel-size 4 does not spread the 6 head groups"):
        engine(shape=Shape(kv_heads=6), ranks=4)


def test_routers_are_told_of_saved_blocks_by_vllms_own_hashes(engine: Make) -> None:
    one, shared = engine(telling=True), prompt(150)
    asked(one, "a", shared)
    one.settle()
    one.step()
    assert [len(event.block_hashes) for event in one.events] == [4, 4]
    assert [event.token_ids for event in one.events] == [shared[:64], shared[64:128]]
    first, second = one.events
    assert first.parent_block_hash is None and second.parent_block_hash == first.block_hashes[-1]
    assert first.medium == "STORAGE" and first.block_size == 16
    request = Request("b", shared, SamplingParams(), None, block_hasher=one.hasher)
    assert first.block_hashes + second.block_hashes == [
        maybe_convert_block_hash(each) for each in request.block_hashes[:8]
    ]
    # what the store has already is news to nobody
    assert asked(engine(telling=True, extra={"mirror": False}), "a", shared) == 153 - 128


def test_pages_that_are_not_what_we_take_them_for_are_refused(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Mismatch, match="layer 0: known K and V"):
        engine(wrong=True)
    with pytest.raises(ConfigError, match="attention backend CPU_ATTN may pack its pages"):
        engine(backend="CPU_ATTN")
    with pytest.raises(ConfigError, match="kv_load_failure_policy must be 'recompute'"):
        engine(transfer={"kv_load_failure_policy": "fail"})
    with pytest.raises(ConfigError, match="block_tokens = 40 must be a multiple"):
        engine(extra={"block_tokens": 40})
    with pytest.raises(ConfigError, match="kv_connector_extra_config"):
        engine(extra={"adress": "x"})
    sliding = SlidingWindowSpec(block_size=16, num_kv_heads=1, head_size=8, dtype=torch.float32, sliding_window=64)
    groups = KVCacheConfig(8, [], [KVCacheGroupSpec(["model.layers.0.self_attn.attn"], sliding)])
    with pytest.raises(ConfigError, match="as SlidingWindowSpec, of which not every token has KV"):
        layer_names(groups)
    monkeypatch.setattr(vllm_layout.vllm, "__version__", "0.99.0")
    with pytest.raises(ConfigError, match=r"vLLM 0\.99\.0: its page layout is not known here"):
        engine()


def test_no_wrong_bytes_in_many_operations(engine: Make) -> None:
    choose = random.Random(3)
    engines = [engine(pages=40), engine(pages=24, layout="LBHNC", extra={"mirror": False, "block_tokens": 64})]
    families = [prompt(400, seed) for seed in range(5)]
    wanted: list[tuple[Engine, str, list[int], int]] = []
    for number in range(60):
        each = choose.choice(engines)
        base = choose.choice(families)
        tokens = base[: choose.randrange(20, 200)] + prompt(choose.randrange(1, 60), number)
        new = choose.randrange(1, 30)
        each.add(f"n{number}", tokens, new)
        wanted.append((each, f"n{number}", tokens, new))
        for _ in range(choose.randrange(4)):
            choose.choice(engines).step()
        if choose.random() < 0.15:
            victim = wanted.pop(choose.randrange(len(wanted)))
            victim[0].abort(victim[1])
    for each in engines:
        each.run(60.0)
    for each, name, tokens, new in wanted:
        assert each.answers[name] == answer(tokens, new)
    assert all(each.stats["loaded_blocks"] > 10 for each in engines)
