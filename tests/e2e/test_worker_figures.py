"""The figures of store and workers tell the same story."""

from collections.abc import Callable
from typing import Any

from cachestore.metrics import total
from prefill_worker.prompt import CacheUse

NAMES = ("requests", "requests_done", "requests_failed", "prompt_tokens", "computed_tokens", "reused_tokens")


def test_sums(empty: Any, make_prompt: Callable[..., list[int]]) -> None:
    def counts(client: Any) -> dict[str, int]:
        figures = client.stats()
        return {name: total(figures, name) for name in NAMES}

    before = {name: counts(getattr(empty, name)) for name in ("prefill", "decode")}
    store_before, handoffs = empty.store.stats(), empty.counted("handoffs")
    usages = []
    # handed over, in pages here but for less than a block, handed over, too short to be
    for tokens in (make_prompt(70, 41), make_prompt(70, 41), make_prompt(33, 42), make_prompt(9, 43)):
        usages.append(empty.ask(tokens)[1])
    usages.append(empty.ask(make_prompt(70, 41), cache=CacheUse.OFF)[1])
    empty.at_rest()
    assert [usage.prefilled_by for usage in usages] == ["p0", "local", "p0", "local", "local"]
    for name, prompts, requests in (("prefill", 70 + 33, 2), ("decode", 70 + 70 + 33 + 9 + 70, 5)):
        after = counts(getattr(empty, name))
        grown = {figure: after[figure] - before[name][figure] for figure in NAMES}
        assert grown["prompt_tokens"] == prompts == grown["computed_tokens"] + grown["reused_tokens"]
        assert grown["requests"] == grown["requests_done"] == requests
        assert after["requests"] == after["requests_done"] + after["requests_failed"]
    assert empty.counted("handoffs") == handoffs + 2
    figures = empty.store.stats()

    def grew(name: str, **labels: str) -> int:
        return total(figures, name, **labels) - total(store_before, name, **labels)

    for purpose in ("reuse", "handoff"):
        outcomes = [grew(f"read_{end}", purpose=purpose) for end in ("hits", "misses", "corrupt", "expired")]
        assert grew("read_blocks", purpose=purpose) == sum(outcomes)
        assert total(figures, "read_open", purpose=purpose) == 0
    # the full blocks of both prompts, each read once by whoever was handed them
    assert grew("read_hits", purpose="handoff") == sum(usage.loaded_tokens for usage in usages) // 16 == 4 + 2
    assert grew("read_hits", purpose="reuse") == 0
    statuses = ("stored", "already_exists", "in_progress", "kept_first", "not_kept", "failed", "aborted")
    assert grew("put_blocks") == sum(grew(f"put_{status}") for status in statuses)
    assert total(figures, "put_open") == 0


def test_only_full_blocks_are_stored(empty: Any, make_prompt: Callable[..., list[int]]) -> None:
    empty.ask(make_prompt(9, 44), 3)
    empty.ask(make_prompt(20, 45), 3)
    empty.at_rest()
    figures = empty.store.stats()
    assert total(figures, "tier_blocks", tier="cpu") == 1
