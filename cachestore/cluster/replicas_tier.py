"""The memory of several nodes as a tier that keeps blocks for good: one has a block once as many nodes hold it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cachestore.block import Buffer
from cachestore.cluster.handing_over import PATIENCE, HandingOver
from cachestore.cluster.kept_blocks import Kept, KeptBlocks
from cachestore.cluster.lots import placed
from cachestore.cluster.peer_settings import OTHERS
from cachestore.cluster.peers import Peers
from cachestore.deadline import Deadline
from cachestore.hashing import namespace_id
from cachestore.index import Entry, Name
from cachestore.seal import CorruptBlock, Header
from cachestore.service.operation import Moved
from cachestore.store.promotion import Arrival
from cachestore.store.tiered import TieredStore
from cachestore.tiers.base import Departed, Found, Usage
from cachestore.tiers.ledger import Ledger

TIER = "replicas"

MOST_SHARE = 0.5
"""Of a node's memory is kept for good at most: the rest is for what comes and goes."""


class Begun(NamedTuple):
    """A block of a put under way: `fresh` if others see it only since that has to be copied to them."""

    kept: Kept
    fresh: bool


@dataclass(eq=False)
class ReplicasTier:
    """What it has lies in this node's memory, and stays there. Follows `ColdTier`, `Listing`, `Keeping`, `Counted`."""

    tiered: TieredStore
    peers: Peers
    name: str = TIER
    durable: bool = True
    hot: bool = False
    ledger: Ledger = field(default_factory=lambda: Ledger(TIER))
    blocks: KeptBlocks = field(init=False)
    given_up: list[tuple[bytes, Name, bytes]] = field(default_factory=list)
    """Lives that keep blocks, of so and so a fingerprint, for puts here that failed, and are to be told. Under the
    index's lock."""
    telling: set[Name] = field(default_factory=set)
    """Blocks of which others are just told so: a put of one of them has to wait for that. Under the index's lock."""
    _wanted: dict[bytes, int] = field(init=False)

    def __post_init__(self) -> None:
        most = int(MOST_SHARE * self.tiered.memory.capacity)
        self.blocks = KeptBlocks(self.tiered.index, self.ledger, most)
        settings = self.peers.settings.durable
        self._wanted = {namespace_id(name): nodes for name, nodes in settings.items() if name != OTHERS}

    @property
    def healthy(self) -> bool:
        return self.peers.directory.life is not None

    def keepers(self, namespace: bytes) -> int:
        return self._wanted.get(namespace, self.peers.settings.durable.get(OTHERS, 0))

    def lacking(self, namespace: bytes) -> str:
        nodes, alive = self.keepers(namespace), 1 + len(self.peers.others())
        if alive >= nodes:
            return ""
        return f"[peers.durable] has {nodes} nodes keep them, and {alive} {'is' if alive == 1 else 'are'} alive"

    def open(self, departed: Departed) -> None:
        pass

    def close(self) -> None:
        pass

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        there = self.present(namespace, keys, deadline)
        return there.index(False) if False in there else len(keys)

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        with self.tiered.index.changed:
            return [self.blocks.get(Name(namespace, key)) is not None for key in keys]

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        with self.tiered.index.changed:
            found = [self.blocks.get(Name(namespace, key)) for key in keys]
            entries = [kept.entry if kept is not None else None for kept in found]
            for entry in filter(None, entries):
                self.tiered.index.use(entry)
        try:
            return [None if entry is None else entry.slot.bytes.copy() for entry in entries]
        finally:
            with self.tiered.index.changed:
                for entry in filter(None, entries):
                    self.tiered.index.leave(entry)

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        """Which blocks so many nodes keep now, this one included. Others can read them here as soon as that begins."""
        nodes = self.keepers(namespace)
        if not durable or not nodes:
            return [False] * len(blocks)
        begun: dict[Name, Begun] = {}
        found: dict[Name, set[bytes]] = {}
        try:
            for key, data in blocks:
                name = Name(namespace, key)
                if name not in begun and (one := self._begin(name, data, ttl, deadline)) is not None:
                    begun[name] = one
            found = self.spread(list(begun), nodes - 1, deadline)
        finally:
            done = self._end(begun, found, nodes - 1)
        return [Name(namespace, key) in done for key, _ in blocks]

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        with self.tiered.index.changed:
            found = [self.blocks.get(Name(namespace, key)) for key in keys]
            for kept in found:
                # a durable copy stays until it is made again; here memory is the copy, and whoever reads it removes it
                if kept is None or why == "corrupt":
                    continue
                self._give_up(kept)
                self.blocks.remove(kept.entry.name, why)
                if why == "withdrawn":
                    # nobody was told of it, though others may have seen it
                    self.tiered.forget(kept.entry, why)
            return [kept is not None and why != "corrupt" for kept in found]

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        with self.tiered.index.changed:
            names = self.blocks.names(namespace)
            for name in names:
                self.blocks.remove(name, "cleared")
        return {name.key for name in names}

    def usage(self, deadline: Deadline | None = None) -> Usage:
        return Usage(self.blocks.nbytes, self.blocks.most)

    def keys(self, namespace: bytes) -> Sequence[bytes]:
        with self.tiered.index.changed:
            return [name.key for name in self.blocks.names(namespace)]

    def kept(self, namespace: bytes, keys: Sequence[bytes], ends: float = 0.0) -> list[bool]:
        # of what it keeps for others alone nobody was told here, though it has its room
        with self.tiered.index.changed:
            found = [self.blocks.get(Name(namespace, key)) for key in keys]
            return [
                kept is not None
                and (not ends or (kept.promised and time.time() + kept.entry.ends - time.monotonic() >= ends))
                for kept in found
            ]

    def durable_bytes(self, namespace: bytes) -> int:
        return self.ledger.content(namespace).durable

    def recount(self, namespace: bytes, deadline: Deadline) -> None:
        pass

    def look(self, deadline: Deadline) -> None:
        pass

    def spread(self, names: Sequence[Name], wanted: int, deadline: Deadline) -> dict[Name, set[bytes]]:
        """Has other nodes keep these blocks until `wanted` do; which lives do."""
        once = min(PATIENCE * self.peers.settings.timeout, max(deadline.remaining() / 2, 1e-3))
        over = HandingOver(self.tiered, self.peers, Moved(), deadline, once, patient=False)
        return over.keepers(placed(self.tiered, names), wanted)

    def _begin(self, name: Name, data: Buffer, ttl: float | None, deadline: Deadline) -> Begun | None:
        """Keeps a block here, which others can read then; None if that cannot be."""
        header = Header.parse(data)
        with self.tiered.index.changed:
            while name in self.telling and deadline.remaining():
                self.tiered.index.changed.wait(deadline.remaining())
            entry = self.tiered.index.get(name)
            fresh = entry is not None and not entry.ready
            if entry is not None and fresh:
                # of another writer's block nothing is known, and memory beside the tier is nobody's to keep
                room = self.blocks.nbytes + entry.slot.nbytes <= self.blocks.most
                if not room or self.tiered.staged(entry.slot) or not np.may_share_memory(data, entry.slot.bytes):
                    return None
                self.tiered.publish([entry], ttl)
                return self._kept(entry, fresh=True)
        if entry is None:
            as_of = self.tiered.removals(name.namespace)
            self.tiered.promotion.bring(Arrival(name, None, header, data, self.name, as_of), deadline)
        entry = self.renew(name, header, data, deadline)
        with self.tiered.index.changed:
            return self._kept(entry, fresh=False) if entry is not None and not entry.gone else None

    def _kept(self, entry: Entry, *, fresh: bool) -> Begun | None:
        kept = self.blocks.add(entry)
        if kept is None:
            return None
        kept.puts += 1
        return Begun(kept, fresh)

    def _end(self, begun: dict[Name, Begun], found: dict[Name, set[bytes]], wanted: int) -> set[Name]:
        """Of which blocks it can be said that they are kept; the others are nobody's any more."""
        done = set()
        with self.tiered.index.changed:
            for name, (kept, fresh) in begun.items():
                kept.puts -= 1
                kept.others |= found.get(name, set())
                # somebody may have removed it meanwhile
                if self.blocks.get(name) is not kept:
                    self._give_up(kept)
                elif len(found.get(name, ())) >= wanted:
                    kept.promised, kept.looked = True, time.monotonic()
                    done.add(name)
                elif not kept.wanted:
                    self._give_up(kept)
                    self.blocks.remove(name, "withdrawn")
                    if fresh:
                        self.tiered.forget(kept.entry, "withdrawn")
        return done

    def _give_up(self, kept: Kept) -> None:
        """Those that keep a block for a put here need not. Under the lock."""
        self.given_up += [(life, kept.entry.name, kept.entry.fingerprint) for life in kept.others - kept.claims]

    @staticmethod
    def _outlasts(header: Header, entry: Entry) -> bool:
        """Whether the sealed block ends later than that in memory, which cannot be changed where it lies."""
        try:
            expires = Header.parse(entry.slot.bytes).expires
        except CorruptBlock:
            return True
        return (header.expires or math.inf) > (expires or math.inf)

    def renew(self, name: Name, header: Header, data: Buffer, deadline: Deadline) -> Entry | None:
        """Puts a block in the place of one in memory that ends sooner; it is kept as that was. None without room."""
        tiered, as_of = self.tiered, self.tiered.removals(name.namespace)
        with tiered.index.changed:
            old = tiered.index.ready(name.namespace, header.fingerprint).get(name.key)
            if old is None or not self._outlasts(header, old):
                return old
        slot = tiered.take(name.namespace, data.nbytes, deadline)
        if slot is None:
            return None
        np.copyto(slot.bytes, data)
        with tiered.index.changed:
            old = tiered.index.ready(name.namespace, header.fingerprint).get(name.key)
            if old is None or tiered.removals(name.namespace) != as_of:
                tiered.give(slot)
                return None
            kept = self.blocks.lift(name)
            tiered.forget(old, "replaced")
            entry = tiered.index.reserve(name, header.fingerprint, slot, old.parent)
            tiered.publish([entry], header.expires / 1000 - time.time() if header.expires else None)
            if kept is not None:
                entry.durable = old.durable
                self.blocks.lay(kept, entry)
            return entry


def tier_of(tiered: TieredStore, namespace: bytes) -> ReplicasTier | None:
    """The tier that keeps durable blocks of this namespace, if that is the memory of several nodes."""
    found = (tier for tier in tiered.cold if isinstance(tier, ReplicasTier))
    return next((tier for tier in found if tier.keepers(namespace)), None)
