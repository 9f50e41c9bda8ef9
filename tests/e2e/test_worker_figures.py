"""The figures of store and workers tell the same story."""

from collections.abc import Callable
from typing import Any

from cachestore.metrics import total
from prefill_worker.prompt import CacheUse


def test_sums(empty: Any, make_prompt: Callable[..., list[int]]) -> None:
    names = ("requests", "requests_done", "requests_failed", "prompt_tokens", "computed_tokens", "reused_tokens")

    def counts(client: Any) -> dict[str, int]:
        figures = client.stats()
        return {name: total(figures, name) for name in names}

    before = {name: counts(getattr(empty, name)) for name in ("prefill", "decode")}
    store_before = empty.store.stats()
    usages = []
    for tokens in (make_prompt(70, 41), make_prompt(70, 41), make_prompt(33, 42), make_prompt(9, 43)):
        usages.append(empty.ask(tokens)[1])
    usages.append(empty.ask(make_prompt(70, 41), cache=CacheUse.OFF)[1])
    for name, prompts in (("prefill", 182), ("decode", 252)):
        after = counts(getattr(empty, name))
        grown = {figure: after[figure] - before[name][figure] for figure in names}
        assert grown["prompt_tokens"] == prompts
        assert grown["computed_tokens"] + grown["reused_tokens"] == prompts
        assert grown["requests"] == grown["requests_done"] == (4 if name == "prefill" else 5)
        assert after["requests"] == after["requests_done"] + after["requests_failed"]
        assert grown["reused_tokens"] == sum(sum(usage.reuse.reused.values()) for usage in usages) == 64
    empty.at_rest()
    figures = empty.store.stats()

    def grew(name: str, **labels: str) -> int:
        return total(figures, name, **labels) - total(store_before, name, **labels)

    for purpose in ("reuse", "handoff"):
        outcomes = [grew(f"read_{end}", purpose=purpose) for end in ("hits", "misses", "corrupt", "expired")]
        assert grew("read_blocks", purpose=purpose) == sum(outcomes)
        assert total(figures, "read_open", purpose=purpose) == 0
    # 4 full blocks twice, 2 once, and a tail with each of the four
    assert grew("read_hits", purpose="handoff") == 4 + 4 + 2 + 4
    assert grew("read_hits", purpose="reuse") == 4
    statuses = ("stored", "already_exists", "in_progress", "kept_first", "not_kept", "failed", "aborted")
    assert grew("put_blocks") == sum(grew(f"put_{status}") for status in statuses)
    assert total(figures, "put_open") == 0


def test_tails_do_not_stay(empty: Any, make_prompt: Callable[..., list[int]]) -> None:
    empty.ask(make_prompt(9, 44), 3)
    empty.ask(make_prompt(20, 45), 3)
    empty.at_rest()
    figures = empty.store.stats()
    assert total(figures, "tier_blocks", tier="cpu") == 1
