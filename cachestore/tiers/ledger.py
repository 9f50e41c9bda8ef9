"""What one tier holds of each namespace, and what came and went.

In every namespace and at any moment, `tier_added` = `tier_blocks` + the sum of `tier_removed` over its reasons, and the
sum of `evicted` over its own is what `tier_removed` has as evicted and demoted.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from cachestore.metrics import Figure

EVICTED = ("evicted", "demoted")
"""Why a block left that left for others."""

CAPACITY, QUOTA, PROMOTION, START = "capacity", "quota", "promotion", "start"
"""What the others needed: room in a full tier for a block that is put there; room under the quota of their namespace;
room in a full tier for a block on its way up; or, at the start, the cap, which the tier was found to be over."""


class Content(NamedTuple):
    """How much a tier holds of one namespace; `durable` bytes of it leave by Delete, Clear or their time only."""

    blocks: int = 0
    nbytes: int = 0
    durable: int = 0


@dataclass(eq=False)
class _Account:
    added: int = 0
    blocks: int = 0
    nbytes: int = 0
    durable: int = 0
    removed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    evicted: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(eq=False)
class Ledger:
    """The accounts of one tier, whose name is `tier`. Thread-safe."""

    tier: str
    _accounts: dict[bytes, _Account] = field(default_factory=lambda: defaultdict(_Account))
    _lock: Lock = field(default_factory=Lock)

    def came(self, namespace: bytes, nbytes: int, *, blocks: int = 1, durable: bool = False) -> None:
        """So many blocks came, of `nbytes` in all, or were found at the start."""
        with self._lock:
            account = self._accounts[namespace]
            account.added += blocks
            account.blocks += blocks
            account.nbytes += nbytes
            account.durable += nbytes if durable else 0

    def went(self, namespace: bytes, nbytes: int, why: str, *, durable: bool = False, reason: str = CAPACITY) -> None:
        """A block went; `why` is one word: evicted, demoted, ttl, deleted, cleared, corrupt, lost,
        replaced (by another value), withdrawn (never acknowledged).

        `reason` says of one that left for others what these needed.
        """
        with self._lock:
            account = self._accounts[namespace]
            account.removed[why] += 1
            if why in EVICTED:
                account.evicted[reason] += 1
            account.blocks -= 1
            account.nbytes -= nbytes
            account.durable -= nbytes if durable else 0

    def content(self, namespace: bytes) -> Content:
        """What the tier holds of this namespace."""
        with self._lock:
            account = self._accounts.get(namespace)
            return Content(account.blocks, account.nbytes, account.durable) if account else Content()

    def contents(self) -> Mapping[bytes, Content]:
        """What the tier holds, by namespace."""
        with self._lock:
            return {
                name: Content(account.blocks, account.nbytes, account.durable)
                for name, account in self._accounts.items()
            }

    def figures(self, namespace: bytes) -> list[Figure]:
        """The namespace's figures of this tier."""
        tier = ("tier", self.tier)
        with self._lock:
            account = self._accounts.get(namespace)
            if account is None:
                return []
            figures = [
                Figure("tier_added", (tier,), account.added),
                Figure("tier_blocks", (tier,), account.blocks),
                Figure("tier_bytes", (tier,), account.nbytes),
                Figure("tier_durable_bytes", (tier,), account.durable),
            ]
            figures += [Figure("tier_removed", (tier, ("why", why)), n) for why, n in account.removed.items()]
            return figures + [Figure("evicted", (("reason", why), tier), n) for why, n in account.evicted.items()]
