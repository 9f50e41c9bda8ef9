"""The sums that must hold in every store's figures."""

from itertools import pairwise

from cachestore.metrics import PUT_OUTCOMES, READ_OUTCOMES, Figure, total
from cachestore.store.base import Purpose
from cachestore.tiers.ledger import CAPACITY, EVICTED, PROMOTION, QUOTA, START

REASONS = {CAPACITY, QUOTA, PROMOTION, START}
"""What others needed for which a block left."""


def check_sums(figures: list[Figure]) -> None:
    """Asserts that whatever was read, put, came into a tier or left for others is counted under exactly one outcome."""
    for purpose in Purpose:
        outcomes = {name: total(figures, name, purpose=purpose) for name in READ_OUTCOMES}
        assert total(figures, "read_blocks", purpose=purpose) == sum(outcomes.values()), outcomes
    outcomes = {name: total(figures, name) for name in PUT_OUTCOMES}
    assert total(figures, "put_blocks") == sum(outcomes.values()), outcomes
    for tier in {figure.label("tier") for figure in figures if figure.name == "tier_blocks"}:
        added, removed = total(figures, "tier_added", tier=tier), total(figures, "tier_removed", tier=tier)
        blocks, nbytes = total(figures, "tier_blocks", tier=tier), total(figures, "tier_bytes", tier=tier)
        assert added == removed + blocks and blocks >= 0 and (nbytes > 0) == (blocks > 0), (
            tier,
            added,
            removed,
            blocks,
        )
        for_others = sum(total(figures, "tier_removed", tier=tier, why=why) for why in EVICTED)
        assert total(figures, "evicted", tier=tier) == for_others, (tier, for_others)
    for reason in REASONS:
        left = {name: total(figures, name, reason=reason) for name in ("evicted", "demoted", "dropped")}
        assert left["demoted"] + left["dropped"] <= left["evicted"], (reason, left)
    assert {figure.label("reason") for figure in figures if figure.name in ("evicted", "demoted", "dropped")} <= REASONS
    check_times(figures)


def check_times(figures: list[Figure]) -> None:
    """Asserts that the time histograms are cumulative and count no more than was done."""
    for count in (figure for figure in figures if figure.name == "time_count"):
        buckets = [f for f in figures if f.name == "time_bucket" and f.label("op") == count.label("op")]
        heights = [f.value for f in sorted(buckets, key=lambda f: int(f.label("le")))]
        assert all(lower <= higher for lower, higher in pairwise([0, *heights, count.value])), heights
