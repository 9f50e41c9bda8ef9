"""vLLM's own scheduler with our connector: prefixes come from the store, byte for byte."""

import random

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm.v1.request import Request

from cachestore.integrations.vllm_layout import LAYOUTS
from tests.integrations.vllm.engine import Engine, Make, asked, prompt
from tests.integrations.vllm.model import Shape
from tests.integrations.vllm.workers import answer

pytestmark = pytest.mark.slow


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
