"""Takes over blocks that another node hands over: they are read from it, verified, and kept here."""

import logging
from collections.abc import Sequence

from cachestore.cluster.peer import Failed, Peer
from cachestore.cluster.peer_tier import TIER
from cachestore.cluster.peers import Peers
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.seal import PARENT_BYTES, CorruptBlock
from cachestore.store.durability import upgrade
from cachestore.store.inspection import opened
from cachestore.store.promotion import Arrival
from cachestore.store.tiered import TieredStore

LEAST_SECONDS = 1e-3
"""A durable block is kept for so long at least, and else until its own end, which its header says."""

log = logging.getLogger(__name__)


def take(
    tiered: TieredStore,
    peers: Peers,
    namespace: bytes,
    incarnation: bytes,
    chain: Chain,
    deadline: Deadline,
    *,
    durable: bool,
) -> list[bool]:
    """Which blocks of `chain` are here now, read from the node of this life; with `durable` those kept for good here.

    Unavailable if no node of this life is alive.
    """
    life = next((life for life in peers.others() if life.incarnation == incarnation), None)
    if life is None:
        raise Unavailable("no node of that incarnation is alive in the directory, as far as this one knows")
    peer = peers.peer(life)
    missing = [key for key in chain.keys if not _here(tiered, namespace, chain.fingerprint, [key])[0]]
    while missing and deadline.remaining():
        read = _bring(tiered, peer, namespace, Chain(chain.fingerprint, tuple(missing)), chain.keys, deadline)
        if read is None:
            break
        # what is not there any more, or corrupt, is passed over
        missing = missing[read + 1 :]
    there = _here(tiered, namespace, chain.fingerprint, chain.keys)
    return _kept(tiered, namespace, chain, there, deadline) if durable else there


def _here(tiered: TieredStore, namespace: bytes, fingerprint: bytes, keys: Sequence[bytes]) -> list[bool]:
    with tiered.index.changed:
        ready = tiered.index.ready(namespace, fingerprint)
        return [key in ready for key in keys]


def _bring(
    tiered: TieredStore, peer: Peer, namespace: bytes, chain: Chain, known: Sequence[bytes], deadline: Deadline
) -> int | None:
    """Brings the leading blocks of `chain` into memory; how many came, None if it is of no use to go on."""
    parents = {key[:PARENT_BYTES]: key for key in known}
    as_of, count = tiered.removals(namespace), 0
    try:
        with peer.reading(namespace, chain, deadline) as reading:
            for key, sealed in zip(chain.keys, reading, strict=False):
                if sealed is None or isinstance(sealed, CorruptBlock):
                    break
                header = opened(sealed, Name(namespace, key), chain.fingerprint, tiered.memory.largest())
                parent = parents.get(header.parent)
                arrival = Arrival(Name(namespace, key), parent, header, sealed, TIER, as_of)
                if not tiered.promotion.bring(arrival, deadline):
                    return None
                count += 1
    except Failed:
        return None
    except CorruptBlock:
        return count
    return count


def _kept(tiered: TieredStore, namespace: bytes, chain: Chain, there: Sequence[bool], deadline: Deadline) -> list[bool]:
    keys = [key for key, ok in zip(chain.keys, there, strict=True) if ok]
    try:
        kept = upgrade(tiered, namespace, keys, chain.fingerprint, deadline, LEAST_SECONDS) if keys else {}
    except CacheStoreError as error:
        log.warning("[peers] durable blocks of another node are not taken: %s", error)
        kept = {}
    return [bool(kept.get(key)) for key in chain.keys]
