"""The sums that must hold in every store's figures."""

from cachestore.metrics import PUT_OUTCOMES, READ_OUTCOMES, Figure, total
from cachestore.store.base import Purpose


def check_sums(figures: list[Figure]) -> None:
    """Asserts that every block read or put is counted under exactly one outcome."""
    for purpose in Purpose:
        outcomes = {name: total(figures, name, purpose=purpose) for name in READ_OUTCOMES}
        assert total(figures, "read_blocks", purpose=purpose) == sum(outcomes.values()), outcomes
    outcomes = {name: total(figures, name) for name in PUT_OUTCOMES}
    assert total(figures, "put_blocks") == sum(outcomes.values()), outcomes
