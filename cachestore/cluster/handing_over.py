"""Hands blocks of this node over to others, which come and read them: nothing is pushed on anybody.

A node that takes blocks reads them from here as it reads any, verifies every byte, keeps them in memory, and durable
ones for good, before it says that it has them.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from cachestore.cluster.lots import Block, Lot, durable_blocks, hot_blocks, lots
from cachestore.cluster.peers import Peers
from cachestore.deadline import Deadline
from cachestore.directory.base import Life
from cachestore.errors import CacheStoreError, DeadlineExceeded
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.service.operating import Operating
from cachestore.service.operation import Moved
from cachestore.store.tiered import TieredStore

PATIENCE = 3
"""Another node may take so many times its time-out for one read to take one lot: it reads that, and verifies it."""

ONCE_SECONDS = 30.0
"""How long one node may take for one lot."""

REBALANCE = "rebalance"
"""For what blocks left that others have taken, as the ledger has it."""

PAUSE = 0.05
"""Seconds before it is looked again for what open puts have left meanwhile."""

Holders = dict[bytes, set[bytes]]
"""By key, the lives that have a block."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class HandingOver:
    """One node's blocks on their way to others, until `deadline`; `told` says how far it is.

    A node may take `once` seconds for one lot. One that is away is asked again with the next if we are `patient`.
    """

    tiered: TieredStore
    peers: Peers
    told: Moved
    deadline: Deadline
    once: float = ONCE_SECONDS
    patient: bool = True
    needed: int = 1
    """How many other nodes are to keep a durable block; the most that any block asks for."""
    _tried: set[Name] = field(default_factory=set)
    _failed: set[bytes] = field(default_factory=set)
    _connections: dict[tuple[bytes, bytes], Operating] = field(default_factory=dict)
    _opened: ExitStack = field(default_factory=ExitStack)

    def hurry(self, deadline: Deadline) -> None:
        """Ends sooner if this deadline is; what another node takes just now it may finish."""
        self.deadline = min(self.deadline, deadline, key=lambda each: each.at)

    def all(self) -> None:
        """Durable blocks, then hot ones, until none is left that was not tried and no put is open.

        New puts must be refused already. Those open at the deadline are ended, and what they had made durable is left.
        """
        with self._opened:
            while True:
                # before the look: one that ends behind it may have made durable what was not seen
                puts_open = self.tiered.puts_open
                durable = self._durable()
                self._all_of(durable, durable=True)
                hot, self.told.cold = hot_blocks(self.tiered, self._tried)
                needed = self._needed(hot)
                self.told.hot_left += len(needed)
                self._all_of(needed, durable=False)
                if not self.deadline.remaining():
                    self.tiered.end_puts(self.tiered.refuses)
                    self._tried.update(block.name for block in durable)
                    self._durable()
                    return
                if not (durable or hot or puts_open):
                    return
                time.sleep(PAUSE)

    def _durable(self) -> list[Block]:
        """Durable blocks that were not tried; they count as left, as do those that cannot be read."""
        durable, unreadable = durable_blocks(self.tiered, self._tried, self.deadline)
        self._tried.update(unreadable)
        self.told.durable_left += len(durable) + len(unreadable)
        self.needed = max([self.needed, *(block.nodes for block in durable)])
        return durable

    def some(self, nbytes: int) -> None:
        """Hot blocks of so many bytes; what others have got is no longer kept here."""
        with self._opened:
            hot, self.told.cold = hot_blocks(self.tiered, self._tried)
            chosen: list[Block] = []
            for block in self._needed(hot):
                if nbytes <= 0:
                    break
                chosen.append(block)
                nbytes -= block.nbytes
            self.told.hot_left += len(chosen)
            self._all_of(chosen, durable=False, then=self._let_go)

    def copies(self, blocks: Sequence[Block], wanted: int) -> Iterator[tuple[Lot, int]]:
        """Has other nodes take these blocks until `wanted` have each; lot by lot, how many copies nobody took."""
        with self._opened:
            for lot in lots(blocks, durable=False):
                holders = self._holders(lot)
                taken = self._spread(lot, holders, wanted)
                self.told.hot_moved += len(taken)
                self.told.bytes_moved += sum(block.nbytes for block in taken)
                yield lot, sum(max(0, wanted - len(lives)) for lives in holders.values())

    def keepers(self, blocks: Sequence[Block], wanted: int) -> dict[Name, set[bytes]]:
        """Has other nodes keep these blocks for good until `wanted` do; which lives do, by block."""
        found: dict[Name, set[bytes]] = {}
        with self._opened:
            for lot in lots(blocks, durable=True):
                holders: Holders = {key: set() for key in lot.keys}
                self._spread(lot, holders, wanted)
                found.update((Name(lot.namespace, key), lives) for key, lives in holders.items())
        return found

    def _holders(self, lot: Lot) -> Holders:
        """Whom the directory says to have each block."""
        found = self.peers.holders(lot.namespace, lot.keys, self.deadline)
        return {key: {life.incarnation for life in lives} for key, lives in zip(lot.keys, found, strict=True)}

    def _spread(self, lot: Lot, holders: Holders, wanted: int) -> list[Block]:
        """Asks one node after the other until each block has `wanted` of `holders`; what was taken, once for each."""
        taken: list[Block] = []
        for life in self._others(lot):
            own = self.peers.directory.life
            lacking = [
                block
                for block in lot.blocks
                if len(holders[block.name.key]) < wanted and life.incarnation not in holders[block.name.key]
            ]
            if not self.deadline.remaining() or own is None:
                break
            if not lacking or not (self.patient or self.peers.peer(life).breaker.due):
                continue
            there = self._ask(life, own, lot, [block.name.key for block in lacking])
            for block, ok in zip(lacking, there, strict=True):
                if ok:
                    holders[block.name.key].add(life.incarnation)
                    taken.append(block)
        return taken

    def _needed(self, blocks: Sequence[Block]) -> list[Block]:
        """Those that nobody else has, neither in memory nor in a tier that all share."""
        by_namespace: dict[bytes, list[Block]] = {}
        for block in blocks:
            by_namespace.setdefault(block.name.namespace, []).append(block)
        there: set[Name] = set()
        for namespace, some in by_namespace.items():
            keys = [block.name.key for block in some]
            holders = self.peers.holders(namespace, keys, self.deadline)
            there |= {block.name for block, held in zip(some, holders, strict=True) if held}
            for tier in self.tiered.cold:
                if tier.ledger is None:
                    present = tier.present(namespace, keys, self.deadline)
                    there |= {block.name for block, held in zip(some, present, strict=True) if held}
        self.told.elsewhere += len(there)
        self._tried |= there
        return [block for block in blocks if block.name not in there]

    def _all_of(
        self, blocks: Sequence[Block], *, durable: bool, then: Callable[[Sequence[Block]], None] = lambda _: None
    ) -> None:
        for lot in lots(blocks, durable=durable):
            taken = self._hand_over(lot)
            self._tried |= {block.name for block in lot.blocks}
            if durable:
                self.told.durable_moved += len(taken)
                self.told.durable_left -= len(taken)
            else:
                self.told.hot_moved += len(taken)
                self.told.hot_left -= len(taken)
            self.told.bytes_moved += sum(block.nbytes for block in taken)
            then(taken)
            if not self.deadline.remaining():
                return

    def _hand_over(self, lot: Lot) -> list[Block]:
        """Has as many other nodes as there are to be take the blocks of a lot; those that found so many."""
        holders: Holders = {key: set() for key in lot.keys}
        self._spread(lot, holders, lot.nodes)
        return [block for block in lot.blocks if len(holders[block.name.key]) >= lot.nodes]

    def _others(self, lot: Lot) -> list[Life]:
        """Whom to ask, in the order of the lot; for good first those that have it in memory already."""
        others = [life for life in self.peers.others() if life.incarnation not in self._failed]
        have: Counter[bytes] = Counter()
        if lot.durable and len(others) > 1:
            have.update(life for lives in self._holders(lot).values() for life in lives)
        return sorted(others, key=lambda life: (-have[life.incarnation], lot.order(life.incarnation)))

    def _ask(self, life: Life, own: Life, lot: Lot, keys: Sequence[bytes]) -> Sequence[bool]:
        nothing = [False] * len(keys)
        chain = Chain(lot.fingerprint, tuple(keys))
        timeout = min(self.once, self.deadline.remaining())
        try:
            connection = self._connection(life, lot.namespace)
            there = connection.take(own.incarnation, chain, durable=lot.durable, timeout=timeout)
        except CacheStoreError as error:
            log.warning("[peers] %s at %s took nothing: %s", life.node, life.address, error)
            if not self.patient and isinstance(error, DeadlineExceeded) and timeout >= self.peers.settings.timeout:
                # the next ones are not kept waiting
                self.peers.peer(life).breaker.failed()
            if not (self.patient and error.retryable and self.deadline.remaining()):
                self._failed.add(life.incarnation)
            return nothing
        return there if len(there) == len(keys) else nothing

    def _connection(self, life: Life, namespace: bytes) -> Operating:
        at = life.incarnation, namespace
        if at not in self._connections:
            shown = self.peers.settings.credentials.credentials().for_namespace(namespace, life.incarnation)
            self._connections[at] = self._opened.enter_context(closing(Operating(life.address, shown)))
            self._connections[at].open()
        return self._connections[at]

    def _let_go(self, taken: Sequence[Block]) -> None:
        with self.tiered.index.changed:
            for block in taken:
                entry = self.tiered.index.get(block.name)
                if entry is not None and entry.ready and not (entry.users or entry.pinned):
                    self.tiered.forget(entry, "evicted", REBALANCE)
