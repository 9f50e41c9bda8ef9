"""The store of one node: what holds its tiers, its index and its policies together."""

import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.ends import Ends
from cachestore.errors import Unavailable
from cachestore.eviction.base import Eviction
from cachestore.hashing import namespace_id
from cachestore.index import Entry, Index, Name
from cachestore.metrics import Counters
from cachestore.mover import Mover
from cachestore.store import room
from cachestore.store.copying import MOVE_SECONDS, WriteBack, write_due
from cachestore.store.elsewhere import Elsewhere
from cachestore.store.events import Events
from cachestore.store.fetching import Batches
from cachestore.store.joint import JointBlocks
from cachestore.store.leases import Leases
from cachestore.store.local import LocalStore
from cachestore.store.owned_pages import OwnedPages
from cachestore.store.pins import Pins
from cachestore.store.presence import Presence, Present
from cachestore.store.promises import Promises
from cachestore.store.promotion import Promotion
from cachestore.store.provisional import Journals
from cachestore.store.reaching import open_tiers, reach_again
from cachestore.store.repairing import Repairs
from cachestore.store.settings import StoreSettings
from cachestore.store.staging import Staging
from cachestore.store.unreadable import Unreadable
from cachestore.store.upkeep import Upkeep
from cachestore.tiers.base import ColdTier
from cachestore.tiers.cpu import Cpu, CpuTier
from cachestore.tiers.ledger import Ledger
from cachestore.tiers.slab import Slot


@dataclass(eq=False)
class TieredStore:
    """Tiers, index and policies of one node; `namespace` gives the store as one tenant sees it.

    `memory` is the gateway, `hot` tiers get copies of what is read often, `cold` ones of what was put or must leave.
    """

    memory: CpuTier
    cold: Sequence[ColdTier]
    codec: Codec
    eviction: Eviction
    settings: StoreSettings = field(default_factory=StoreSettings)
    sealed: bool = False
    """Whether blocks are sealed against whoever can write to them: then no writer's own memory holds any."""
    hot: Sequence[ColdTier] = ()
    elsewhere: Sequence[Elsewhere] = ()
    """Other nodes whose blocks can be read here."""
    incarnation: bytes = field(default_factory=lambda: os.urandom(16))
    index: Index = field(init=False)
    leases: Leases = field(init=False)
    pins: Pins = field(init=False)
    mover: Mover = field(init=False)
    promotion: Promotion = field(init=False)
    write_back: WriteBack = field(init=False)
    batches: Batches = field(init=False)
    upkeep: Upkeep = field(init=False)
    events: Events = field(init=False)
    joint: JointBlocks = field(init=False)
    ledger: Ledger = field(init=False)
    staging: Staging = field(init=False)
    presence: list[Presence] = field(default_factory=list)
    """Who is told what comes into memory and what leaves it."""
    journals: Journals = field(default_factory=Journals)
    unreadable: Unreadable = field(default_factory=Unreadable)
    pages: OwnedPages = field(default_factory=OwnedPages)
    promised: dict[bytes, Promises] = field(default_factory=lambda: defaultdict(Promises))
    """Bytes that open puts may still make durable, by namespace and key."""
    copying: set[Entry] = field(default_factory=set)
    """Blocks of which copies are under way, also those that have left the index meanwhile."""
    repairing: Repairs = field(default_factory=Repairs)
    patient: bool = False
    """Whether to open without a medium that all nodes share and that cannot be reached now: `reach_again` finds it."""
    unreached: list[ColdTier] = field(default_factory=list)
    """What is to be opened still."""
    refuses: str = ""
    """Why nothing is put here any more; empty while something may be."""
    moving: int = 0
    """Copies under way that keep blocks in use; after them more may leave."""
    _namespaces: dict[str, LocalStore] = field(default_factory=dict)
    _counters: dict[bytes, Counters] = field(default_factory=lambda: defaultdict(Counters))
    _quotas: dict[bytes, int] = field(default_factory=dict)
    _sequence: Iterator[int] = field(default_factory=lambda: count(1))
    _removals: dict[bytes, int] = field(default_factory=dict)
    _ending: Ends[Name] = field(init=False)
    """When blocks with a time to live end; names only, since an entry would hold on to memory that was given up."""

    def __post_init__(self) -> None:
        self._quotas = {namespace_id(name): quota for name, quota in self.settings.quotas.items()}
        self.index = Index(self.eviction, self.give, self._quota)
        self._ending = Ends(self._ends_at)
        self.leases = Leases(self.index)
        self.pins = Pins(self.index, int(self.memory.capacity * self.settings.pin_share))
        self.mover = Mover(self.expire, backlog=self.settings.backlog)
        self.promotion = Promotion(self)
        self.write_back = WriteBack(self.settings.write_delay)
        self.batches = Batches(self.settings.fetch_bytes)
        self.upkeep = Upkeep(self)
        self.events = Events(self)
        self.joint = JointBlocks(self)
        self.ledger = Ledger(self.memory.name)
        self.staging = Staging(Cpu(self.settings.staging).start())

    @property
    def lower(self) -> Sequence[ColdTier]:
        """Every tier but memory, in the order in which they are asked."""
        return [*self.hot, *self.cold]

    def reach(self, fingerprint: bytes) -> Sequence[ColdTier]:
        """Every tier but memory in which blocks of this spec are looked for, those of other nodes included.

        What this node alone has comes first, then the memory of others, then what all share and what evicts unseen.
        """
        own = [tier for tier in self.lower if tier.ledger is not None]
        shared = [tier for tier in self.lower if tier.ledger is None]
        return [*own, *(each.tier(fingerprint) for each in self.elsewhere), *shared] if self.elsewhere else self.lower

    def open(self) -> None:
        """Acquires the tiers and starts the threads; if one tier cannot be used, the others are given back."""
        open_tiers(self)
        self.mover.open()

    def reach_again(self) -> bool:
        """Tries to open what could not be reached so far; whether nothing is left. For one thread at a time."""
        return reach_again(self)

    def close(self) -> None:
        """Finishes what is under way and gives everything back. Closing twice is allowed."""
        write_due(self, math.inf)
        self.mover.close()
        tiers: list[ColdTier | CpuTier] = [*self.lower, self.memory, self.staging.memory]
        for tier in tiers:
            tier.close()

    def __enter__(self) -> "TieredStore":
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def namespace(self, name: str) -> LocalStore:
        """The store as the tenant `name` sees it."""
        with self.index.changed:
            if name not in self._namespaces:
                self._namespaces[name] = LocalStore(self, namespace_id(name))
            return self._namespaces[name]

    def for_peer(self, namespace: bytes) -> LocalStore:
        """What another node sees of the namespace of this id: what is on this node alone."""
        return LocalStore(self, namespace, alone=True)

    @property
    def puts_open(self) -> int:
        """How many puts are open, of all namespaces."""
        with self.index.changed:
            return sum(store.puts_open for store in self._namespaces.values())

    def check_puts(self) -> None:
        """Unavailable, with the reason, while nothing may be put here."""
        if self.refuses:
            raise Unavailable(self.refuses)

    def end_puts(self, why: str) -> None:
        """Gives up the puts that are open, and has their writers told `why`. What is committed by then stays."""
        with self.index.changed:
            namespaces = list(self._namespaces.values())
        for store in namespaces:
            store.puts.abort_all(why)

    def counters(self, namespace: bytes) -> Counters:
        """The counters of one namespace."""
        with self.index.changed:
            return self._counters[namespace]

    def next_sequence(self) -> int:
        """The number of the next block that this store seals."""
        return next(self._sequence)

    @property
    def present(self) -> Present:
        """What is in memory now, of all namespaces."""
        return Present(self.index)

    def tell(self, follower: Presence) -> None:
        """From now on `follower` is told what comes into memory and what leaves it."""
        with self.index.changed:
            self.presence.append(follower)

    def stop_telling(self, follower: Presence) -> None:
        """From now on `follower` is told nothing."""
        with self.index.changed:
            self.presence.remove(follower)

    def settle(self, timeout: float = MOVE_SECONDS) -> bool:
        """Waits until nothing moves in the background; False if the time is over first."""
        return self.mover.settle(timeout)

    def expire(self) -> None:
        """Ends the leases, pins, blocks and puts whose time is over, copies down what is due, sees to the tiers."""
        with self.index.changed:
            self.leases.expire()
            self.pins.expire()
            while (name := self._ending.due(time.monotonic())) is not None:
                entry = self.index.get(name)
                assert entry is not None
                self.forget(entry, "ttl")
            namespaces = list(self._namespaces.values())
        for store in namespaces:
            store.puts.expire()
        self.joint.expire()
        write_due(self, time.monotonic())
        self.upkeep.tick(time.monotonic())

    def take(self, namespace: bytes, nbytes: int, deadline: Deadline, owner: bytes = b"") -> Slot | None:
        """Memory for a block, others leaving for it as far as they may; None if too little may leave in time."""
        return room.take(self, namespace, nbytes, deadline, owner)

    def take_free(self, namespace: bytes, nbytes: int, most: int, owner: bytes = b"") -> list[Slot]:
        """Memory for up to so many blocks of one size, as far as it is free: none leave for them. Under the lock."""
        return room.take_free(self, namespace, nbytes, most, owner)

    def stage(self, namespace: bytes, nbytes: int, owner: bytes = b"") -> Slot | None:
        """Memory beside the tier for a block that has no room in it, on its way to a cold one; None if that is full."""
        if not self.cold:
            return None
        with self.index.changed:
            return self.staging.take(namespace, nbytes, owner)

    def disown(self, namespace: bytes, owner: bytes) -> None:
        """A writer that had memory of its own is gone: what it published there stays, as any other block."""
        with self.index.changed:
            self.memory.disown(namespace, owner)
            self.staging.memory.disown(namespace, owner)

    def staged(self, slot: Slot) -> bool:
        """Whether this memory is for a block on its way to a cold tier."""
        return slot in self.staging

    def shrink(self, slot: Slot, nbytes: int) -> None:
        """Takes back what a block turned out not to need. Called under the lock."""
        (self.staging.memory if slot in self.staging else self.memory).shrink(slot, nbytes)

    def give(self, slot: Slot) -> None:
        """Takes memory back. Called under the lock."""
        (self.staging if slot in self.staging else self.memory).give(slot)

    def publish(self, entries: Sequence[Entry], ttl: float | None = None) -> None:
        """Makes written blocks of one spec visible, for `ttl` seconds at most, and counts them. Under the lock."""
        if not entries:
            return
        self.index.publish(entries)
        if ttl is not None:
            for entry in entries:
                entry.ends = time.monotonic() + ttl
                self._ending.add(entry.ends, entry.name)
        namespace, keys = entries[0].name.namespace, [entry.name.key for entry in entries]
        self.ledger.came(namespace, sum(entry.slot.nbytes for entry in entries), blocks=len(entries))
        self.events.stored(namespace, entries[0].fingerprint, keys)
        for follower in self.presence:
            follower.announce(namespace, keys)

    def prolong(self, entry: Entry, ttl: float | None) -> None:
        """Lets a published block live for `ttl` more seconds at least, None for ever. Called under the lock."""
        entry.ends = math.inf if ttl is None else max(entry.ends, time.monotonic() + ttl)
        if entry.ends < math.inf:
            self._ending.add(entry.ends, entry.name)

    def forget(self, entry: Entry, why: str, reason: str = "") -> None:
        """Takes a published block out of memory, and counts it. Called under the lock.

        `reason` is what those needed for which it left, if it left for others.
        """
        if not entry.gone:
            self.ledger.went(entry.name.namespace, entry.slot.nbytes, why, reason=reason)
            self.index.remove(entry)
            self.events.removed(entry)
            for follower in self.presence:
                follower.withdraw(entry.name.namespace, [entry.name.key])

    def removals(self, namespace: bytes) -> int:
        """How often blocks of this namespace were deleted or cleared."""
        with self.index.changed:
            return self._removals.get(namespace, 0)

    def removing(self, namespace: bytes) -> None:
        """Says that blocks of this namespace are about to be removed: none of it may come back. Under the lock."""
        self._removals[namespace] = self._removals.get(namespace, 0) + 1

    def check(self) -> None:
        """Asserts what must hold between calls: caps, and counted blocks equal to those there are."""
        with self.index.changed:
            usage = self.memory.usage()
            assert usage.used <= self.memory.taken <= usage.capacity
            for namespace in self._counters:
                entries = self.index.entries(namespace)
                content = self.ledger.content(namespace)
                assert (content.blocks, content.nbytes) == (len(entries), sum(e.slot.nbytes for e in entries))
        self.pages.check()

    def _ends_at(self, ends: float, name: Name) -> bool:
        # another block of this name may have come since
        entry = self.index.get(name)
        return entry is not None and entry.ends == ends

    def _quota(self, namespace: bytes) -> float:
        return self._quotas.get(namespace, self.settings.quota or math.inf)
