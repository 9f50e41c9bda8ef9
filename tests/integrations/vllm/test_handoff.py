"""One vLLM engine prefills, another decodes: the blocks go through the store."""

import time
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from cachestore.integrations.vllm_scheduling import HANDOFF
from tests.integrations.vllm.engine import Make, asked, prompt

pytestmark = pytest.mark.slow


class Late:
    """A store that is told late of what is put."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put(self, *given: Any, **more: Any) -> Any:
        time.sleep(0.2)
        return self._store.put(*given, **more)


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
