"""All figures of one namespace, from everything that counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.metrics import Figure, Labels
from cachestore.tiers.base import Keeping

if TYPE_CHECKING:
    from cachestore.store.local import LocalStore


def figures(local: LocalStore, deadline: Deadline) -> list[Figure]:
    """Every figure counted in this namespace, sorted; what they mean is in docs/statistics.md.

    A tier that does not say by `deadline` what it holds has zero there.
    """
    tiered, namespace = local.tiered, local.namespace
    with tiered.index.changed:
        found = list(tiered.counters(namespace).figures())
        found += tiered.ledger.figures(namespace)
        found.append(Figure("leases_open", (), tiered.leases.count(namespace)))
        found.append(Figure("puts_open", (), local.puts_open))
        pins = tiered.pins.of(namespace)
        found += [Figure("pins", (), len(pins)), Figure("pinned_bytes", (), sum(pin.nbytes for pin in pins))]
        usages = {tiered.memory.name: tiered.memory.usage()}
    found += tiered.pages.figures(namespace)
    for tier in tiered.lower:
        if tier.ledger is not None:
            found += tier.ledger.figures(namespace)
        elif isinstance(tier, Keeping) and tier.durable:
            found.append(Figure("tier_durable_bytes", (("tier", tier.name),), tier.durable_bytes(namespace)))
        found.append(Figure("tier_healthy", (("tier", tier.name),), int(tier.healthy)))
        usages[tier.name] = tier.usage(deadline)
    for name, usage in usages.items():
        found.append(Figure("tier_used_bytes", (("tier", name),), usage.used))
        found.append(Figure("tier_capacity_bytes", (("tier", name),), usage.capacity))
    # pages of this process and those of others are one tier
    sums = Counter[tuple[str, Labels]]()
    for figure in found:
        sums[figure.name, figure.labels] += figure.value
    return sorted(Figure(name, labels, value) for (name, labels), value in sums.items())
