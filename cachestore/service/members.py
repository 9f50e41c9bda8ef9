"""Who is in the cluster, as this node was told: soft state, kept by heartbeats.

A member that stops saying it is alive is forgotten. The epoch grows with every change that a router must notice:
someone joined, left, expired, came back as another incarnation, or moved. While it is known only the identity that
registered it speaks for it: many workers may share one, and where there are none everybody is the same.

The stores that read from each other are among them without a word of theirs: this node knows them by its directory.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import NamedTuple

from cachestore.errors import InvalidArgument, Overloaded, PermissionDenied
from cachestore.service.auth.identity import LOCAL

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


class _Known(NamedTuple):
    member: Member
    until: float
    by: str


@dataclass
class Members:
    """The members known now. `clock` gives monotonic seconds; of several `callers` none registers more than half.

    `stores` tells those that are known besides; who is registered under the name of one is not shown.
    """

    clock: Callable[[], float] = time.monotonic
    callers: int = 1
    stores: Callable[[], Iterable[Member]] = tuple
    _epoch: int = 0
    _known: dict[tuple[str, str], _Known] = field(default_factory=dict)
    _alive: dict[tuple[str, str], Member] = field(default_factory=dict)
    """What `stores` told last."""
    _lock: Lock = field(default_factory=Lock)

    def register(self, member: Member, ttl: float, by: str = LOCAL.name) -> int:
        """Notes that `member` lives for `ttl` seconds from now (zero: it leaves), as the identity `by` says.

        The epoch after that. PermissionDenied while another identity's member has its role and name.
        """
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
            if before is not None and before.by != by:
                raise PermissionDenied(
                    f"the {member.role} {member.name!r} was registered by {before.by}, and {by} is another; take "
                    "another name, or wait until it has left"
                )
            if ttl == 0:
                # the farewell of an earlier incarnation says nothing about its successor
                if before is not None and before.member.incarnation == member.incarnation:
                    del self._known[at]
                    self._epoch += 1
                return self._epoch
            if before is None:
                self._check_room(by)
            self._known[at] = _Known(member, now + ttl, by)
            if before is None or replace(before.member, queue=member.queue) != member:
                self._epoch += 1
            return self._epoch

    def list(self, role: str = "") -> tuple[int, tuple[Member, ...]]:
        """The epoch, and the members of this role (empty: of all) by role and name."""
        if role and role not in ROLES:
            raise InvalidArgument(f"role {role!r} is unknown; use one of {', '.join(ROLES)}, or none for all")
        with self._lock:
            self._sweep()
            known = {at: known.member for at, known in self._known.items()} | self._alive
            return self._epoch, tuple(known[at] for at in sorted(known) if role in ("", at[0]))

    def _check_room(self, by: str) -> None:
        most = max(1, MOST_MEMBERS // 2) if self.callers > 1 else MOST_MEMBERS
        if sum(known.by == by for known in self._known.values()) >= most:
            raise Overloaded(f"{by} has registered {most} members, all that one caller may; let some leave or expire")
        if len(self._known) >= MOST_MEMBERS:
            raise Overloaded(f"{MOST_MEMBERS} members are registered already; let some leave or expire")

    def _sweep(self) -> float:
        now = self.clock()
        over = [at for at, known in self._known.items() if known.until <= now]
        for at in over:
            del self._known[at]
        before, self._alive = self._alive, {(member.role, member.name): member for member in self.stores()}
        self._epoch += len(over) + (_at_rest(before) != _at_rest(self._alive))
        return now


def _at_rest(members: dict[tuple[str, str], Member]) -> set[Member]:
    """The members without what changes all the time."""
    return {replace(member, queue=0) for member in members.values()}
