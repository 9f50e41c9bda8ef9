"""Weights are replaced while vLLM's engine lives, as in reinforcement learning: KV of before is not used any more."""

import random
import time
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from vllm.lora.request import LoRARequest
from vllm.v1.request import RequestStatus

from cachestore.integrations.keys import PromptKeys
from cachestore.integrations.vllm_scheduling import HANDOFF
from tests.integrations.vllm.engine import Engine, Make, asked, prompt
from tests.integrations.vllm.test_names import adapter
from tests.integrations.vllm.workers import answer

pytestmark = pytest.mark.slow


def replaced(engine: Engine, weights: int, running: bool = False) -> bool:
    """The weights of an engine are replaced, and it is told so as vLLM's own interface has it."""
    engine.workers.reload(weights)
    return bool(engine.scheduler.reset_prefix_cache(reset_running_requests=running, reset_connector=True))


def heard(engine: Engine, tokens: list[int]) -> None:
    """Until the engine's mirror knows of the prompt's blocks."""
    scheduling, until = engine.scheduler.connector._scheduling, time.monotonic() + 10
    chain = PromptKeys(scheduling.spec).grow(tokens)
    while scheduling._mirror.lookup(chain).ready < len(chain):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("mirror", [True, False])
def test_kv_of_before_is_not_loaded_and_that_of_after_is_this_engines_own(engine: Make, mirror: bool) -> None:
    one, shared = engine(extra={"mirror": mirror}), prompt(300)
    assert asked(one, "a", shared) == 303
    one.settle()
    for weights in (7, 8):
        assert replaced(one, weights)
        # every byte is compared with what these weights compute
        assert asked(one, f"b{weights}", shared) == 303
        one.settle()
        # vLLM's own cache is emptied, ours kept
        assert one.scheduler.reset_prefix_cache()
        if mirror:
            heard(one, shared)
        assert asked(one, f"c{weights}", shared) == 303 - 256
    # other engines have the weights of before
    assert asked(engine(extra={"mirror": False}), "d", shared) == 303 - 256


def test_requests_that_run_begin_anew_with_the_new_weights(engine: Make) -> None:
    one, prompts = engine(), {f"r{seed}": prompt(200, seed) for seed in range(3)}
    for name, tokens in prompts.items():
        one.add(name, tokens, new=70)
    while len(one.scheduler.running) < 3:
        one.step()
    assert replaced(one, 7, running=True)
    one.run()
    one.settle()
    for name, tokens in prompts.items():
        assert one.answers[name] == answer(tokens, 70)
    assert one.scheduler.reset_prefix_cache()
    for name, tokens in prompts.items():
        assert asked(one, f"again {name}", tokens + answer(tokens, 56)) == 256 - 192 - 63 + 3


def test_requests_that_go_on_with_kv_of_before_save_nothing_more(engine: Make) -> None:
    one, shared = engine(), prompt(100)
    one.add("a", shared, new=100)
    # the store may be asked first
    while not one.computed:
        one.step()
    one.settle()
    before = one.stats["saved_blocks"]
    assert before == 1
    # vLLM itself has reset nothing either
    assert not one.scheduler.reset_prefix_cache(reset_connector=True)
    one.run()
    one.settle()
    assert one.stats["saved_blocks"] == before
    assert one.scheduler.reset_prefix_cache(reset_connector=True)
    assert asked(one, "b", shared) == 103


def test_what_was_loaded_and_waits_for_room_is_of_before_too(engine: Make) -> None:
    one, shared = engine(), prompt(256)
    asked(one, "a", shared, new=1)
    one.settle()
    two = engine(extra={"mirror": False})
    # so that what is behind its prefix does not fit into a step
    two.scheduler.scheduler_config.enable_chunked_prefill = False
    two.add("b", shared + prompt(300, 2), new=1)
    request = two.scheduler.requests["b"]
    while request.status is not RequestStatus.WAITING or not request.num_computed_tokens:
        two.step()
        time.sleep(0.001)
    assert two.scheduler.connector.reset_cache() is False
    two.scheduler.scheduler_config.enable_chunked_prefill = True
    two.run()
    two.settle()
    assert two.answers["b"] == answer(shared + prompt(300, 2), 1)
    assert two.stats["loaded_blocks"] == 4 and "saved_blocks" not in two.stats


def test_what_waits_is_looked_up_under_the_new_name(engine: Make) -> None:
    one, shared = engine(extra={"mirror": False}), prompt(300)
    asked(one, "a", shared)
    one.settle()
    one.add("b", shared)
    assert replaced(one, 7)
    before = one.computed
    one.run()
    assert one.computed - before == 303


def test_nobody_waits_for_blocks_of_another_name(engine: Make) -> None:
    first = engine(transfer={"kv_role": "kv_producer"})
    second = engine(transfer={"kv_role": "kv_consumer"}, extra={"mirror": False, "handoff_wait": "60s"})
    shared = prompt(300)
    asked(first, "a", shared, new=1, params={"do_remote_decode": True})
    assert replaced(second, 7)
    # run() gives it 30 seconds
    assert asked(second, "a", shared, params=first.params["a"]) == 303
    assert replaced(first, 7)
    asked(first, "b", shared, new=1, params={"do_remote_decode": True})
    assert first.params["b"][HANDOFF] == 0


def test_routers_are_not_told_of_blocks_of_before(engine: Make) -> None:
    one = engine(telling=True)
    one.add("a", prompt(150), new=1)
    one.run()
    assert replaced(one, 7)
    one.settle()
    one.step()
    assert not [event for event in one.events if getattr(event, "medium", "") == "STORAGE"]


def test_an_adapter_whose_files_changed_stays_left_alone(engine: Make, tmp_path: Path) -> None:
    # vLLM's own cache would find what ours is not to
    one, shared, files = engine(caching=False, extra={"mirror": False}), prompt(130), adapter(tmp_path / "x", 1)
    assert asked(one, "a", shared, lora_request=LoRARequest("one", 1, str(files))) == 133
    adapter(files, 2)
    assert one.scheduler.reset_prefix_cache(reset_connector=True)
    # vLLM has the first files loaded as 1, and loads the others as 2, and as either once it had no room for it
    for turn, number in enumerate((1, 2, 1)):
        assert asked(one, f"b{turn}", shared, lora_request=LoRARequest("one", number, str(files))) == 133
        one.settle()
    assert one.stats["requests_left_alone"] == 3
    anew = LoRARequest("one", 1, str(adapter(tmp_path / "y", 2)))
    assert asked(one, "c", shared, lora_request=anew) == 133
    one.settle()
    assert asked(one, "d", shared, lora_request=anew) == 133 - 128


def test_weights_that_are_replaced_between_two_resets_leave_nothing_to_others(engine: Make) -> None:
    one, reset = engine(extra={"mirror": False}), {"reset_running_requests": True, "reset_connector": True}
    asked(one, "of before", prompt(300, 0))
    begun(one, "running before", prompt(300, 1))
    assert one.scheduler.reset_prefix_cache(**reset)
    asked(one, "before", prompt(300, 2))
    one.workers.reload(7)
    asked(one, "after", prompt(300, 3))
    begun(one, "running after", prompt(300, 4))
    assert one.scheduler.reset_prefix_cache(**reset)
    one.run()
    for seed in range(4):
        assert asked(one, f"anew {seed}", prompt(300, seed)) == 303
    one.settle()
    # another engine has the weights of before: every byte that it loads is compared with theirs
    two = engine(extra={"mirror": False})
    assert asked(two, "of before", prompt(300, 0)) == 303 - 256
    asked(two, "running before", prompt(300, 1))
    for seed in (2, 3, 4):
        assert asked(two, f"new {seed}", prompt(300, seed)) == 303


def begun(engine: Engine, name: str, tokens: list[int]) -> None:
    """Until a request runs."""
    engine.add(name, tokens, new=100)
    while not engine.scheduler.running:
        engine.step()


@pytest.mark.parametrize("seed", range(3))
def test_whenever_weights_are_replaced_no_byte_is_of_before(engine: Make, seed: int) -> None:
    choose = random.Random(seed)
    # preempted and found again in the store, since vLLM has no cache of its own
    one, families = engine(pages=60, caching=False), [prompt(400, number) for number in range(3)]
    wanted, resets = {}, 0
    for number in range(60):
        tokens = choose.choice(families)[: choose.randrange(60, 400)] + prompt(choose.randrange(1, 40), 100 + number)
        wanted[f"n{number}"] = tokens, choose.randrange(1, 40)
        one.add(f"n{number}", *wanted[f"n{number}"])
        for _ in range(choose.randrange(12)):
            one.step()
        if choose.random() < 0.3:
            try:
                assert one.scheduler.reset_prefix_cache(reset_running_requests=True, reset_connector=True)
            except RuntimeError:
                # vLLM does not reset while loads are on their way
                continue
            one.workers.reload(number + 1)
            resets += 1
    one.run(60.0)
    assert all(one.answers[name] == answer(*each) for name, each in wanted.items())
    assert resets > 2 and one.stats["loaded_blocks"] > 5
