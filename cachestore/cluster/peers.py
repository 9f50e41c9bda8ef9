"""The other nodes of the directory, whose memory a node reads as if it were one tier more."""

import random
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat, takewhile
from threading import Lock
from typing import NamedTuple, Self

from cachestore.cluster.peer import Peer
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.peer_tier import PeerTier
from cachestore.deadline import Deadline
from cachestore.directory.base import Directory, Life
from cachestore.metrics import Counters, Figure
from cachestore.placement.nearest import Here, runs
from cachestore.service.auth.credentials import Credentials
from cachestore.service.members import Member
from cachestore.tiers.base import ColdTier

FRESH_SECONDS = 10.0
"""For how long a read goes by what the lookup before it was told."""

REMEMBERED = 1 << 16
"""Blocks of which it is remembered where a lookup found them."""

TOGETHER = 16
"""Nodes that are told at the same time what is to be removed."""

ROUNDS = 2
"""How often all are told at least: a block may have gone from one that had not heard yet to one that had."""

MOST_ROUNDS = 6
"""How often at most: what is still found then is put anew again and again."""


class Noted(NamedTuple):
    """Whom a lookup chose to read a block from, and for how long that holds."""

    peer: Peer
    until: float


@dataclass(eq=False)
class Peers:
    """Finds blocks by `directory`, and reads them from the best holder. Follows `store.elsewhere.Elsewhere`."""

    directory: Directory
    settings: PeerSettings
    counters: Counters = field(default_factory=Counters)
    _credentials: Credentials = field(init=False)
    _peers: dict[bytes, Peer] = field(default_factory=dict)
    _found: dict[tuple[bytes, bytes], Noted] = field(default_factory=dict)
    _random: random.Random = field(default_factory=random.Random)
    _closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._credentials = self.settings.credentials.credentials()

    def tier(self, fingerprint: bytes) -> ColdTier:
        return PeerTier(self, fingerprint)

    def open(self) -> None:
        """Opens the directory; the others are reached when something is read from them."""
        self.directory.open()

    def close(self) -> None:
        """Ends the connections to all of them, and closes the directory."""
        with self._lock:
            self._closed = True
            peers, self._peers = list(self._peers.values()), {}
            self._found.clear()
        for peer in peers:
            peer.close()
        self.directory.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def figures(self) -> list[Figure]:
        """What was read from others, what failed, and what the directory counts."""
        return [*self.counters.figures(), *self.directory.figures()]

    def others(self) -> list[Life]:
        """All other nodes that are alive."""
        own = self.directory.life
        return [life for life in self.directory.lives() if own is None or life.incarnation != own.incarnation]

    def hidden(self) -> list[Life]:
        """Other nodes that may go on although a later one of their name counts."""
        own = self.directory.lived
        return [each.life for each in self.directory.earlier() if each.life.incarnation not in own]

    def twins(self) -> list[Life]:
        """Those nodes of which there surely is another one of the same name, which counts."""
        return [each.life for each in self.directory.earlier() if each.goes_on]

    def is_life(self, incarnation: str) -> bool:
        """Whether this node is that of a life, whose incarnation is given in hex, or was in this process."""
        return any(incarnation == own.hex() for own in self.directory.lived)

    def members(self) -> list[Member]:
        """All nodes that are alive, this one too; of several of one name the one that counts comes last."""
        return [
            Member("store", life.node, life.address, life.node, life.incarnation, life.queue)
            for life in (*self.twins(), *self.directory.lives())
        ]

    def holders(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[list[Life]]:
        """Which other nodes hold each block, as far as they can be asked."""
        others = {life.incarnation for life in self.others()}
        self._forget_but(others | {life.incarnation for life in self.hidden()})
        if not others or not keys:
            return [[] for _ in keys]
        found = self.directory.lookup(namespace, keys, deadline)
        lives = {life.incarnation: life for where in found for life in where.holders if life.incarnation in others}
        usable = {name for name, life in lives.items() if self.peer(life).breaker.due}
        return [[life for life in where.holders if life.incarnation in usable] for where in found]

    def choose(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, but: Collection[Peer] = ()
    ) -> list[Peer]:
        """From whom the leading blocks are read, none of `but`."""
        own = self.directory.life
        here = Here(own.node, own.incarnation) if own is not None else Here()
        holders = self.holders(namespace, keys, deadline)
        if but:
            names = {peer.life.incarnation for peer in but}
            holders = [[life for life in some if life.incarnation not in names] for some in holders]
        found = runs(holders, here, self._random)
        chosen = [peer for life, blocks in found for peer in repeat(self.peer(life), blocks)]
        until = time.monotonic() + FRESH_SECONDS
        with self._lock:
            for key, peer in zip(keys, chosen, strict=False):
                self._found.pop((namespace, key), None)
                self._found[namespace, key] = Noted(peer, until)
            while len(self._found) > REMEMBERED:
                del self._found[next(iter(self._found))]
        return chosen

    def chosen(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Peer]:
        """The same, as a lookup had it just now if there was one."""
        now = time.monotonic()
        with self._lock:
            noted = [self._found.pop((namespace, key), None) for key in keys]
        fresh = takewhile(lambda at: at is not None and at.until > now, noted)
        return [at.peer for at in fresh if at is not None] or self.choose(namespace, keys, deadline)

    def remove(self, remove: Callable[[Peer], int | None], deadline: Deadline) -> bool:
        """Has all others `remove` something, which say how much there was, or None; whether it is gone from all.

        They are told until a round finds nothing: what was there may have been copied to one that was told before. Who
        they are is asked before each round: one that came back with its disk is told from when it has joined.
        """
        # one that has not joined, or has left, is not told what others remove, and may have it again from them
        whole = self.directory.life is not None
        with ThreadPoolExecutor(TOGETHER, "cachestore-peers") as pool:
            for number in range(MOST_ROUNDS):
                whole &= self.directory.refresh(deadline)
                # a node that failed is not kept waiting for twice
                found = list(pool.map(remove, [self.peer(life) for life in (*self.others(), *self.hidden())]))
                whole &= None not in found
                if not found or (number + 1 >= ROUNDS and not any(found)):
                    return whole
        return False

    def peer(self, life: Life) -> Peer:
        """The node of this life."""
        with self._lock:
            peer = self._peers.get(life.incarnation)
            if peer is None:
                peer = Peer(life, self.settings, self._credentials, self.counters)
                if self._closed:
                    peer.close()
                else:
                    self._peers[life.incarnation] = peer
            return peer

    def _forget_but(self, alive: Collection[bytes]) -> None:
        """Ends the connections to those that are alive no more."""
        if not alive or len(self._peers) <= len(alive):
            # where nobody is alive it is the directory that cannot be reached, and reads from them may be under way
            return
        with self._lock:
            dead = [self._peers.pop(name) for name in list(self._peers) if name not in alive]
        for peer in dead:
            peer.close()
