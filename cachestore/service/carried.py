"""What each transport carried: blocks that readers were given whole, and blocks that writers had stored.

It is counted with the figures of the namespace. Bytes are those of the sealed block, header included.
"""

from collections.abc import Sequence

from cachestore.block import Part
from cachestore.seal import Header
from cachestore.service.ranges import ranges
from cachestore.store.base import Lease, PutStatus
from cachestore.store.local import LocalStore
from cachestore.store.put import LocalPut


def sealed_bytes(header: Header, part: Part) -> int:
    """What a reader of this part of a block is sent of it."""
    return header.size + sum(end - start for start, end in ranges(header, part))


def read(store: LocalStore, transport: str, sizes: Sequence[int]) -> None:
    """A reader was given blocks of these bytes."""
    _count(store, transport, "read", sizes)


def commit(put: LocalPut, blocks: Sequence[int], ttl: float, transport: str) -> Lease | None:
    """As `LocalPut.commit` of blocks whose planes came this way; those that it stores are counted."""
    index, wanted = put.tiered.index, put.answers
    with index.changed:
        there, keys = index.all_of(put.namespace), put.chain.keys
        entries = {n: there.get(keys[n]) for n in blocks if wanted[n].status is PutStatus.WANTED}
    try:
        return put.commit(blocks, lease=ttl)
    finally:
        # also when it raises: of a durable put some blocks may have found a tier
        answers = put.answers
        stored = [
            entry.slot.nbytes
            for number, entry in entries.items()
            if entry is not None and answers[number].status is PutStatus.STORED
        ]
        _count(put.local, transport, "put", stored)


def _count(store: LocalStore, transport: str, what: str, sizes: Sequence[int]) -> None:
    if sizes:
        counters = store.tiered.counters(store.namespace)
        counters.add(f"transport_{what}_blocks", len(sizes), transport=transport)
        counters.add(f"transport_{what}_bytes", sum(sizes), transport=transport)
