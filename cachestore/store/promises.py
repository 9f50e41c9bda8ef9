"""Bytes of a namespace's durable quota that puts under way have taken for their blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import Overloaded
from cachestore.seal import aligned, header_bytes
from cachestore.store.base import BlockPlan
from cachestore.tiers.base import Keeping

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


@dataclass(eq=False)
class Promises:
    """By key, what each put took: puts of the same block need its bytes once. Callers hold the index's lock."""

    _taken: dict[bytes, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._taken)

    def sizes(self) -> dict[bytes, int]:
        """The most that one put took for each of the blocks."""
        return {key: max(taken) for key, taken in self._taken.items()}

    def add(self, sizes: Mapping[bytes, int]) -> None:
        """One put took these bytes."""
        for key, nbytes in sizes.items():
            self._taken.setdefault(key, []).append(nbytes)

    def remove(self, key: bytes, nbytes: int) -> None:
        """One put gave these back."""
        self._taken[key].remove(nbytes)
        if not self._taken[key]:
            del self._taken[key]


def promise(tiered: TieredStore, namespace: bytes, plans: Sequence[BlockPlan], deadline: Deadline) -> dict[bytes, int]:
    """Bytes at most that each of these blocks will make durable beyond what is, taken out of the namespace's quota.

    Overloaded if that is beyond what it may keep. Who asks gives them back once the blocks are held as durable.
    """
    sizes = {p.key: header_bytes(len(p.planes)) + sum(aligned(plane.raw_bytes) for plane in p.planes) for p in plans}
    return _take(tiered, namespace, sizes, deadline)


def _take(tiered: TieredStore, namespace: bytes, sizes: Mapping[bytes, int], deadline: Deadline) -> dict[bytes, int]:
    quota = tiered.settings.durable_quota
    keeping = [tier for tier in tiered.cold if isinstance(tier, Keeping)]
    for last in (False, True):
        with tiered.index.changed:
            promises = tiered.promised[namespace]
            promised = promises.sizes()
            # before the tiers are asked how much they hold: what comes to one just now counts twice rather than never
            held = sum(_not_kept(keeping, namespace, promised).values())
            held += max((tier.durable_bytes(namespace) for tier in keeping), default=0)
            # what is durable already takes nothing more: a put that is repeated must not fail for that
            new = _not_kept(keeping, namespace, sizes)
            # nor what another put has taken for the same blocks
            nbytes = sum(max(0, size - promised.get(key, 0)) for key, size in new.items())
            if not nbytes or held + nbytes <= quota:
                promises.add(new)
                return new
        for tier in () if last else keeping:
            # others may have made room in a medium that they share
            tier.recount(namespace, deadline)
    raise Overloaded(
        f"{nbytes} bytes beside the {held} durable ones of this namespace are more than store.durable_quota = {quota}; "
        "delete some, or raise it"
    )


@contextmanager
def charged(
    tiered: TieredStore, namespace: bytes, blocks: Sequence[tuple[bytes, Buffer]], deadline: Deadline
) -> Iterator[None]:
    """Takes blocks that are there out of the quota until they are held: they may be larger than a plan says of them."""
    taken = _take(tiered, namespace, {key: data.nbytes for key, data in blocks}, deadline)
    try:
        yield
    finally:
        with tiered.index.changed:
            for key, nbytes in taken.items():
                tiered.promised[namespace].remove(key, nbytes)


def _not_kept(keeping: Sequence[Keeping], namespace: bytes, sizes: Mapping[bytes, int]) -> dict[bytes, int]:
    """Those of these blocks that no tier counts as durable yet."""
    left = dict(sizes)
    for tier in keeping:
        kept = tier.kept(namespace, list(left))
        left = {key: nbytes for (key, nbytes), ok in zip(left.items(), kept, strict=True) if not ok}
    return left
