"""Takes over blocks that another node hands over: they are read from it, verified, and kept here."""

import logging
import math
from collections.abc import Sequence

from cachestore.cluster.peer import Failed, Peer
from cachestore.cluster.peer_tier import TIER
from cachestore.cluster.peers import Peers
from cachestore.cluster.replicas_tier import ReplicasTier, tier_of
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.seal import PARENT_BYTES, CorruptBlock
from cachestore.store.durability import upgrade
from cachestore.store.inspection import opened
from cachestore.store.promises import charged
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
    tier = tier_of(tiered, namespace) if durable else None
    there = _here(tiered, namespace, chain.fingerprint, chain.keys, ending=tier is None)
    missing = [key for key, ok in zip(chain.keys, there, strict=True) if not ok]
    while missing and deadline.remaining():
        read = _bring(tiered, peer, namespace, Chain(chain.fingerprint, tuple(missing)), chain.keys, deadline, tier)
        if read is None:
            break
        # what is not there any more, or corrupt, is passed over
        missing = missing[read + 1 :]
    if tier is not None:
        kept = _claimed(tiered, tier, namespace, chain, incarnation, deadline)
        return [key in kept for key in chain.keys]
    there = _here(tiered, namespace, chain.fingerprint, chain.keys)
    return _kept(tiered, namespace, chain, there, deadline) if durable else there


def give_up(tiered: TieredStore, namespace: bytes, incarnation: bytes, chain: Chain) -> None:
    """What the node of this life had taken here for good need not be kept for it: its put has failed."""
    tier = tier_of(tiered, namespace)
    if tier is None:
        return
    with tiered.index.changed:
        for key in chain.keys:
            kept = tier.blocks.get(Name(namespace, key))
            if kept is not None:
                kept.claims.discard(incarnation)
                if not kept.wanted:
                    tier.blocks.remove(kept.entry.name, "withdrawn")


def _here(
    tiered: TieredStore, namespace: bytes, fingerprint: bytes, keys: Sequence[bytes], *, ending: bool = True
) -> list[bool]:
    """Which blocks are in memory; without `ending` those only that stay for ever."""
    with tiered.index.changed:
        ready = tiered.index.ready(namespace, fingerprint)
        return [key in ready and (ending or ready[key].ends == math.inf) for key in keys]


def _bring(
    tiered: TieredStore,
    peer: Peer,
    namespace: bytes,
    chain: Chain,
    known: Sequence[bytes],
    deadline: Deadline,
    tier: ReplicasTier | None,
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
                if tier is not None:
                    # what is here may end sooner than it was promised there
                    tier.renew(arrival.name, header, sealed, deadline)
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


def _claimed(
    tiered: TieredStore, tier: ReplicasTier, namespace: bytes, chain: Chain, incarnation: bytes, deadline: Deadline
) -> set[bytes]:
    """Keeps blocks that are in memory because the node of this life promises them; which of them are kept."""
    with tiered.index.changed:
        ready = tiered.index.ready(namespace, chain.fingerprint)
        entries = [ready[key] for key in chain.keys if key in ready and not tier.blocks.returns(ready[key])]
        for entry in entries:
            tiered.index.use(entry)
    done = set()
    try:
        blocks = [(entry.name.key, entry.slot.bytes) for entry in entries]
        with charged(tiered, namespace, blocks, deadline), tiered.index.changed:
            for entry in entries:
                kept = tier.blocks.add(entry) if not entry.gone else None
                if kept is not None:
                    kept.claims.add(incarnation)
                    kept.others.add(incarnation)
                    entry.durable = True
                    done.add(entry.name.key)
    except CacheStoreError as error:
        log.warning("[peers] durable blocks of another node are not kept: %s", error)
    finally:
        with tiered.index.changed:
            for entry in entries:
                tiered.index.leave(entry)
    return done
