"""Who is in the cluster, as this node was told: soft state, kept by heartbeats.

A member that stops saying it is alive is forgotten. The epoch grows with every change that a router must notice:
someone joined, left, expired, came back as another incarnation, or moved.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock

from cachestore.errors import InvalidArgument, Overloaded

ROLES = ("store", "prefill", "decode")
MOST_MEMBERS = 4096
LONGEST_TTL = 3600.0


@dataclass(frozen=True)
class Member:
    """One process of the cluster. `queue` counts requests waiting or running there.

    `fingerprint` is that of the spec which a worker computes: one cluster may serve several models.
    """

    role: str
    name: str
    address: str
    node: str
    incarnation: bytes
    queue: int = 0
    fingerprint: bytes = b""


@dataclass
class Members:
    """The members known now. `clock` gives monotonic seconds."""

    clock: Callable[[], float] = time.monotonic
    _epoch: int = 0
    _known: dict[tuple[str, str], tuple[Member, float]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def register(self, member: Member, ttl: float) -> int:
        """Notes that `member` lives for `ttl` seconds from now (zero: it leaves); the epoch after that."""
        if member.role not in ROLES:
            raise InvalidArgument(f"member.role {member.role!r} is unknown; use one of {', '.join(ROLES)}")
        if not member.name or not member.address or not member.incarnation:
            raise InvalidArgument("member.name, member.address and member.incarnation must not be empty")
        if not 0 <= ttl <= LONGEST_TTL:
            raise InvalidArgument(f"ttl must lie in 0 .. {LONGEST_TTL:g} seconds, got {ttl:g}")
        at = (member.role, member.name)
        with self._lock:
            now = self._sweep()
            before = self._known.get(at)
            if ttl == 0:
                # the farewell of an earlier incarnation says nothing about its successor
                if before is not None and before[0].incarnation == member.incarnation:
                    del self._known[at]
                    self._epoch += 1
                return self._epoch
            if before is None and len(self._known) >= MOST_MEMBERS:
                raise Overloaded(f"{MOST_MEMBERS} members are registered already; let some leave or expire")
            self._known[at] = (member, now + ttl)
            if before is None or replace(before[0], queue=member.queue) != member:
                self._epoch += 1
            return self._epoch

    def list(self, role: str = "") -> tuple[int, tuple[Member, ...]]:
        """The epoch, and the members of this role (empty: of all) by role and name."""
        if role and role not in ROLES:
            raise InvalidArgument(f"role {role!r} is unknown; use one of {', '.join(ROLES)}, or none for all")
        with self._lock:
            self._sweep()
            known = (member for _, (member, _) in sorted(self._known.items()))
            return self._epoch, tuple(member for member in known if role in ("", member.role))

    def _sweep(self) -> float:
        now = self.clock()
        over = [at for at, (_, until) in self._known.items() if until <= now]
        for at in over:
            del self._known[at]
        self._epoch += len(over)
        return now
