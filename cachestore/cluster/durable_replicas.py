"""Sees to it that as many nodes go on keeping a durable block as were promised, while nodes die, leave and forget.

Every node that keeps a block knows of some others that do. Where too few of them are alive it asks further ones, first
those that have it in memory: whoever keeps it already just says so, so it does not matter that several ask.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread
from typing import Self

from cachestore.cluster.kept_blocks import Kept
from cachestore.cluster.peers import Peers
from cachestore.cluster.replicas_tier import ReplicasTier
from cachestore.deadline import Deadline
from cachestore.directory.base import Life
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.service.operating import Operating
from cachestore.store.departing import departed
from cachestore.store.tiered import TieredStore

EVERY_SECONDS = 1.0
"""How often it is looked who is alive."""

GRACE_SECONDS = 3.0
"""So long a node may be missing among those alive: when the directory comes back empty all join it again."""

SETTLE_SECONDS = 30.0
"""A node that keeps a block for another does not ask for further ones before: the put may be under way still."""

LOOK_SECONDS = 300.0
"""How often those that keep a block are asked whether they still do."""

ROUND_SECONDS = 10.0
"""How long the blocks that are seen to together may take."""

TOGETHER = 256
"""Blocks that are seen to together."""

RATE = 64 << 20
"""Bytes a second that a node has others read for repairs."""

TELL_SECONDS = 600.0
"""For how long a node that cannot be reached is told again that it need not keep blocks of a put that failed."""

Untold = tuple[float, bytes, Name, bytes]
"""Until when which life is to be told that it need not keep a block, and the fingerprint of that."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class DurableReplicas:
    """From `open` to `close` durable blocks of `tiered` are kept by as many nodes as `peers.settings.durable` says."""

    tiered: TieredStore
    peers: Peers
    tier: ReplicasTier = field(init=False)
    _seen: dict[bytes, float] = field(default_factory=dict)
    """When a life was last seen among those alive."""
    _untold: list[Untold] = field(default_factory=list)
    _lacking: set[Name] = field(default_factory=set)
    """For these too few nodes were found at the last look."""
    _over: Event = field(default_factory=Event)
    _thread: Thread = field(init=False)

    def __post_init__(self) -> None:
        self.tier = ReplicasTier(self.tiered, self.peers)
        self._thread = Thread(target=self._run, name="cachestore-durable", daemon=True)

    def open(self) -> None:
        """From now on blocks are kept."""
        self.tier.open(partial(departed, self.tiered, self.tier.name))
        self.tiered.cold = [*self.tiered.cold, self.tier]
        self.tiered.tell(self.tier.blocks)
        self._thread.start()

    def close(self) -> None:
        """Keeps nothing more: the node ends."""
        self._over.set()
        self._thread.join()
        self.tiered.stop_telling(self.tier.blocks)
        self.tiered.cold = [tier for tier in self.tiered.cold if tier is not self.tier]

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            try:
                self._tell()
                self._look()
            except Exception:
                self.peers.counters.add("durable_failed_steps")
                log.exception("[peers] durable blocks are not seen to now")

    def _look(self) -> None:
        now = time.monotonic()
        lives = self.peers.others()
        new = any(life.incarnation not in self._seen for life in lives)
        self._seen = {life: at for life, at in self._seen.items() if now - at < GRACE_SECONDS}
        self._seen |= {life.incarnation: now for life in lives}
        # without the directory nobody can be told from the dead
        if not self.peers.directory.healthy:
            return
        before = len(self._lacking)
        for some in self._due(now, new=new):
            if not self._over.is_set():
                self._see_to(some)
        with self.tiered.index.changed:
            self._lacking = {name for name in self._lacking if self.tier.blocks.get(name) is not None}
        self.peers.counters.add("durable_lacking", len(self._lacking) - before)

    def _due(self, now: float, *, new: bool) -> list[list[Name]]:
        """Blocks that too few nodes keep, or of which that is not known for sure any more; of one namespace each.

        Those for which there were too few nodes have another chance as soon as there is a `new` one.
        """
        with self.tiered.index.changed:
            blocks = list(self.tier.blocks)
        # there may be very many, and everybody waits for that lock
        lacking = self._lacking if new else ()
        due = [kept for kept in blocks if self._lacks(kept, now) or kept.entry.name in lacking]
        for kept in due:
            kept.looked = now
        by_namespace: dict[bytes, list[Name]] = {}
        for kept in due:
            by_namespace.setdefault(kept.entry.name.namespace, []).append(kept.entry.name)
        return [
            names[start : start + TOGETHER]
            for names in by_namespace.values()
            for start in range(0, len(names), TOGETHER)
        ]

    def _lacks(self, kept: Kept, now: float) -> bool:
        since = now - kept.looked
        if since >= LOOK_SECONDS:
            return True
        alive = len(kept.others & self._seen.keys())
        few = alive < self.tier.keepers(kept.entry.name.namespace) - 1
        return not kept.puts and few and (alive < len(kept.others) or since >= SETTLE_SECONDS)

    def _see_to(self, names: Sequence[Name]) -> None:
        wanted = self.tier.keepers(names[0].namespace) - 1
        found = self.tier.spread(names, wanted, Deadline.after(ROUND_SECONDS))
        repaired = nbytes = 0
        with self.tiered.index.changed:
            for name, lives in found.items():
                kept = self.tier.blocks.get(name)
                if kept is None:
                    continue
                asked = lives - kept.others
                repaired += len(asked)
                nbytes += len(asked) * kept.entry.slot.nbytes
                (self._lacking.add if len(lives) < wanted else self._lacking.discard)(name)
                # one that does not answer now may keep it all the same
                kept.others = lives if len(lives) >= wanted else kept.others & self._seen.keys() | lives
        self.peers.counters.add("durable_repaired", repaired)
        self._over.wait(nbytes / RATE)

    def _tell(self) -> None:
        """Has nodes let go of what they took for puts that failed; those that do not answer are told again."""
        lives = {life.incarnation: life for life in self.peers.others()}
        own, now = self.peers.directory.life, time.monotonic()
        with self.tiered.index.changed:
            waiting = self._untold + [(now + TELL_SECONDS, *each) for each in self.tier.given_up]
            self.tier.given_up.clear()
            told: dict[tuple[bytes, bytes, bytes], list[Untold]] = {}
            self._untold = []
            for each in waiting:
                until, life, name, fingerprint = each
                if (kept := self.tier.blocks.get(name)) is not None:
                    # it was put again, and whoever did not answer then may hear of it only now
                    kept.looked = -math.inf
                elif life in lives and own is not None and until > now:
                    told.setdefault((life, name.namespace, fingerprint), []).append(each)
                    self.tier.telling.add(name)
                elif life in self._seen:
                    self._untold.append(each)
        try:
            for (life, namespace, fingerprint), some in told.items():
                assert own is not None
                if not self._told(
                    lives[life], own, namespace, Chain(fingerprint, tuple(name.key for _, _, name, _ in some))
                ):
                    self._untold += some
        finally:
            with self.tiered.index.changed:
                self.tier.telling.clear()
                self.tiered.index.changed.notify_all()

    def _told(self, life: Life, own: Life, namespace: bytes, chain: Chain) -> bool:
        shown = self.peers.settings.credentials.credentials().for_namespace(namespace, life.incarnation)
        try:
            with closing(Operating(life.address, shown)) as connection:
                connection.open()
                connection.give_up(own.incarnation, chain, timeout=self.peers.settings.timeout)
        except CacheStoreError as error:
            log.info("[peers] %s at %s keeps blocks of a put that failed: %s", life.node, life.address, error)
            return False
        return True
