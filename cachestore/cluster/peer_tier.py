"""What other nodes have of one spec, as a tier of this one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from cachestore.cluster.peer import Failed, Peer
from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.seal import FOR_OTHERS, CorruptBlock
from cachestore.tiers.base import Departed, Found, Usage
from cachestore.tiers.ledger import Ledger

if TYPE_CHECKING:
    from cachestore.cluster.peers import Peers

TIER = "peer"

ATTEMPTS = 2
"""How often holders are looked for before one block: who failed in this read is not asked again."""


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
        with closing(self.stream(namespace, keys, deadline)) as blocks:
            found = list(blocks)
        return found + [None] * (len(keys) - len(found))

    def stream(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> Generator[Found, None, None]:
        given, failed = 0, set[Peer]()
        chosen, attempts = self.peers.chosen(namespace, keys, deadline), ATTEMPTS
        while chosen and attempts:
            before = given
            for peer, alike in groupby(chosen):
                asked = keys[given : given + sum(1 for _ in alike)]
                there = 0
                with closing(self._read(peer, namespace, asked, failed, deadline)) as blocks:
                    for block in blocks:
                        self.peers.counters.add("peer_read_blocks")
                        given, there = given + 1, there + 1
                        yield block
                        if isinstance(block, CorruptBlock):
                            return
                if there < len(asked):
                    break
            attempts = ATTEMPTS - 1 if given > before else attempts - 1
            if given == len(keys) or not deadline.remaining():
                return
            chosen = self.peers.choose(namespace, keys[given:], deadline, failed)

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
        return there if self.peers.remove(lambda peer: peer.delete(namespace, chain, deadline), deadline) else None

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        """Empties the namespace on every other node; which blocks there were nobody says."""
        return set() if self.peers.remove(lambda peer: peer.clear(namespace, deadline), deadline) else None

    def usage(self, deadline: Deadline | None = None) -> Usage:
        """Nothing: what they hold counts where it is."""
        return Usage(0, 0)

    def _read(
        self, peer: Peer, namespace: bytes, keys: Sequence[bytes], failed: set[Peer], deadline: Deadline
    ) -> Generator[Found, None, None]:
        """The leading ones of these blocks that it has, the last perhaps corrupt; notes whether it `failed`.

        What it was said to have and has not, or not well, nobody is sent there for any more.
        """
        wrong = self.peers.directory.wrong
        try:
            with peer.reading(namespace, Chain(self.fingerprint, tuple(keys)), deadline) as reading:
                if reading.there < len(keys):
                    wrong(namespace, [keys[reading.there]], peer.life.incarnation)
                for number, block in enumerate(reading):
                    # one that is too large for this node, or of another release, may suit others
                    if isinstance(block, CorruptBlock) and block.reason not in (*FOR_OTHERS, "size"):
                        wrong(namespace, [keys[number]], peer.life.incarnation)
                    yield block
        except Failed:
            failed.add(peer)
