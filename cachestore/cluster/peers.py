"""The other nodes of the directory, whose memory a node reads as if it were one tier more."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, repeat, takewhile
from threading import Lock
from typing import NamedTuple, Self

from cachestore.cluster.peer import Peer
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.deadline import Deadline
from cachestore.directory.base import Directory, Life
from cachestore.hashing import Chain
from cachestore.metrics import Counters, Figure
from cachestore.placement.nearest import Here, runs
from cachestore.seal import CorruptBlock
from cachestore.service.auth.credentials import Credentials
from cachestore.tiers.base import ColdTier, Departed, Found, Usage
from cachestore.tiers.ledger import Ledger

TIER = "peer"

FRESH_SECONDS = 10.0
"""For how long a read goes by what the lookup before it was told."""

REMEMBERED = 1 << 16
"""Blocks of which it is remembered where a lookup found them."""

ATTEMPTS = 2
"""How often holders are looked for in one read: who failed the first time is not asked again."""


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
            peers, self._peers = list(self._peers.values()), {}
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

    def holders(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[list[Life]]:
        """Which other nodes hold each block, as far as they can be asked."""
        others = {life.incarnation for life in self.others()}
        if not others or not keys:
            return [[] for _ in keys]
        found = self.directory.lookup(namespace, keys, deadline)
        lives = {life.incarnation: life for where in found for life in where.holders if life.incarnation in others}
        usable = {name for name, life in lives.items() if self.peer(life).breaker.due}
        return [[life for life in where.holders if life.incarnation in usable] for where in found]

    def choose(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Peer]:
        """From whom the leading blocks are read."""
        own = self.directory.life
        here = Here(own.node, own.incarnation) if own is not None else Here()
        found = runs(self.holders(namespace, keys, deadline), here, self._random)
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

    def peer(self, life: Life) -> Peer:
        """The node of this life."""
        with self._lock:
            peer = self._peers.get(life.incarnation)
            if peer is not None:
                return peer
            peer = self._peers[life.incarnation] = Peer(life, self.settings, self._credentials, self.counters)
        self._forget_dead(life)
        return peer

    def _forget_dead(self, new: Life) -> None:
        alive = {new.incarnation, *(life.incarnation for life in self.directory.lives())}
        with self._lock:
            dead = [self._peers.pop(name) for name in list(self._peers) if name not in alive]
        for peer in dead:
            peer.close()


@dataclass(frozen=True, eq=False)
class PeerTier:
    """What the others have of the spec `fingerprint`; follows `ColdTier` and `store.elsewhere.Borrowed`."""

    peers: Peers
    fingerprint: bytes
    name: str = TIER
    durable: bool = False
    hot: bool = False
    ledger: Ledger | None = None

    @property
    def healthy(self) -> bool:
        return self.peers.directory.healthy

    @property
    def copy_after(self) -> int:
        return self.peers.settings.copy_after

    def open(self, departed: Departed) -> None:
        pass

    def close(self) -> None:
        pass

    def nodes(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[str]:
        return [peer.life.node for peer in self.peers.choose(namespace, keys, deadline)]

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        return len(self.nodes(namespace, keys, deadline))

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        return [bool(holders) for holders in self.peers.holders(namespace, keys, deadline)]

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        """Up to the first that nobody has: what lies behind it is not read."""
        found: list[Found] = []
        for attempt in range(ATTEMPTS):
            choose = self.peers.choose if attempt else self.peers.chosen
            if not self._read(namespace, keys, choose(namespace, keys[len(found) :], deadline), found, deadline):
                break
        self.peers.counters.add("peer_read_blocks", len(found))
        return found + [None] * (len(keys) - len(found))

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Found]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        return [False] * len(blocks)

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        """Removes the blocks from every other node; which of them were said to be there."""
        there = [bool(holders) for holders in self.peers.holders(namespace, keys, deadline)]
        if why == "corrupt":
            # who holds it hears of that by the verdict of the read
            return there
        chain = Chain(self.fingerprint, tuple(keys))
        done = [self.peers.peer(life).delete(namespace, chain, deadline) for life in self.peers.others()]
        return there if all(done) else None

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        """Empties the namespace on every other node; which blocks there were nobody says."""
        done = [self.peers.peer(life).clear(namespace, deadline) for life in self.peers.others()]
        return set() if all(done) else None

    def usage(self, deadline: Deadline | None = None) -> Usage:
        """Nothing: what they hold counts where it is."""
        return Usage(0, 0)

    def _read(
        self, namespace: bytes, keys: Sequence[bytes], chosen: Sequence[Peer], found: list[Found], deadline: Deadline
    ) -> bool:
        """Adds to `found` what comes from these, one after the other; whether others may have more."""
        for peer, alike in groupby(chosen):
            asked = keys[len(found) :][: sum(1 for _ in alike)]
            brought = peer.read(namespace, Chain(self.fingerprint, tuple(asked)), deadline)
            if brought is None:
                return bool(deadline.remaining())
            found += brought.blocks
            if brought.there < len(asked):
                self.peers.directory.wrong(namespace, [asked[brought.there]], peer.life.incarnation)
            if len(brought.blocks) < len(asked):
                return not (brought.blocks and isinstance(brought.blocks[-1], CorruptBlock))
        return bool(chosen) and len(found) < len(keys) and not isinstance(found[-1], CorruptBlock)
