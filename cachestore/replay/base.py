"""What every way to replay a trace takes and gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cachestore.config import Table
from cachestore.replay.trace import Trace

Advance = Callable[[int], object]
"""Is told, now and then, how many blocks more have been replayed."""

BATCH = 256
"""Requests between two calls of `Advance`: it must cost nothing that the speed could show."""


@dataclass(frozen=True)
class Outcome:
    """What one replay hit, in how many seconds; and what only a whole store can tell.

    `tiers` are the hits by the tier that held them. `wrong` blocks came back other than they were put, `not_kept`
    blocks found no room, and `sums_hold` says whether the store's own figures add up and agree with what was seen.
    """

    hits: int
    seconds: float
    tiers: Mapping[str, int] = field(default_factory=dict)
    wrong: int = 0
    not_kept: int = 0
    sums_hold: bool = True


class Replayer(Protocol):
    """One way to replay."""

    def __call__(self, trace: Trace, policy: str, capacity: int, advance: Advance) -> Outcome:
        """Replays the whole trace with a cache of `capacity` blocks, empty at first, under the eviction `policy`."""


def eviction_table(tables: Table, policy: str) -> Mapping[str, Any]:
    """The settings of this policy: the configuration's if that is the one it names, else the defaults."""
    configured: Mapping[str, Any] = tables.get("eviction", {})
    return configured if configured.get("name") == policy else {"name": policy}
