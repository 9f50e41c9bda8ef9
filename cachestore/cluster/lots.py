"""What a node would hand over to others, and in which order: durable blocks first, then those that are read most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from cachestore.deadline import Deadline
from cachestore.index import Entry, Name
from cachestore.seal import CorruptBlock, Header
from cachestore.store.durability import Counted
from cachestore.tiers.base import ColdTier, Keeping, Listing

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

MOST_BLOCKS = 64
MOST_BYTES = 32 << 20
"""What is handed over at once: a node reads it within its time-out for other nodes."""


class Block(NamedTuple):
    """One block to be handed over; `root` is the first of its chain, as far as that is here."""

    name: Name
    fingerprint: bytes
    nbytes: int
    root: bytes
    reads: int = 0
    nodes: int = 1
    """How many others are to keep it once this node is gone."""


@dataclass(frozen=True)
class Lot:
    """Blocks of one namespace, spec and chain, which are to lie on the same node."""

    namespace: bytes
    fingerprint: bytes
    root: bytes
    blocks: Sequence[Block]
    durable: bool

    @property
    def nodes(self) -> int:
        """How many others are to keep each of its blocks once this node is gone."""
        return max(block.nodes for block in self.blocks)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Of its blocks, the first of the chain first."""
        return tuple(block.name.key for block in self.blocks)

    def order(self, incarnation: bytes) -> bytes:
        """Where a node stands among those that may get it: the least is the first to be asked.

        So every node gets as much as any other, and a chain that is handed over in pieces comes together again
        (Thaler and Ravishankar, Using Name-Based Mappings to Increase Hit Rates, 1998).
        """
        return sha256(self.root + incarnation).digest()


def durable_blocks(tiered: TieredStore, tried: set[Name], deadline: Deadline) -> tuple[list[Block], list[Name]]:
    """The blocks that this node keeps for good and that were not `tried`; those that cannot be read now.

    What a medium keeps that all nodes share need not go anywhere; what several nodes keep is to have as many without
    this one.
    """
    found: list[Block] = []
    unreadable: list[Name] = []
    for tier in tiered.cold:
        if tier.ledger is None or not (tier.durable and isinstance(tier, Listing) and isinstance(tier, Keeping)):
            continue
        for namespace in [name for name, content in tier.ledger.contents().items() if content.durable]:
            keys = list(tier.keys(namespace))
            if isinstance(tier, Counted):
                names = (name for key in keys if (name := Name(namespace, key)) not in tried)
                found += [block._replace(nodes=tier.keepers(namespace)) for block in placed(tiered, names)]
                continue
            for key, kept in zip(keys, tier.kept(namespace, keys), strict=True):
                name = Name(namespace, key)
                if not kept or name in tried:
                    continue
                block = _block(tiered, tier, name, deadline)
                if block is None:
                    unreadable.append(name)
                else:
                    found.append(block)
    return found, unreadable


def hot_blocks(tiered: TieredStore, tried: set[Name]) -> tuple[list[Block], int]:
    """The blocks in memory that were read lately and not `tried`, read most first; how many were not read."""
    found: list[Block] = []
    cold = 0
    with tiered.index.changed:
        namespaces = tiered.index.namespaces()
    for namespace in namespaces:
        with tiered.index.changed:
            entries = {entry.name.key: entry for entry in tiered.index.entries(namespace)}
            reads = {key: tiered.promotion.popularity.reads(entry.name) for key, entry in entries.items()}
        roots: dict[bytes, bytes] = {}
        for key, entry in entries.items():
            if entry.name in tried:
                continue
            if not reads[key]:
                cold += 1
                continue
            root = _root(key, entries, roots)
            found.append(Block(entry.name, entry.fingerprint, entry.slot.nbytes, root, reads[key]))
    # whoever reads a block read those before it, too: no block comes before the ones it cannot be used without
    found.sort(key=lambda block: -block.reads)
    return found, cold


def written_here(tiered: TieredStore, name: Name) -> bool:
    """Whether a block is in memory and was written to this node, not copied from another. Under the lock."""
    entry = tiered.index.get(name)
    try:
        return entry is not None and entry.ready and Header.parse(entry.slot.bytes).writer == tiered.incarnation
    except CorruptBlock:
        return False


def placed(tiered: TieredStore, names: Iterable[Name]) -> list[Block]:
    """Those of these blocks that are in memory."""
    found: list[Block] = []
    chains: dict[bytes, tuple[dict[bytes, Entry], dict[bytes, bytes]]] = {}
    for name in names:
        # one at a time: nobody waits for the lock until all are looked at
        with tiered.index.changed:
            entry = tiered.index.get(name)
            if entry is None or not entry.ready:
                continue
            entries, roots = chains.setdefault(name.namespace, ({}, {}))
            above: Entry | None = entry
            while above is not None and above.ready and above.name.key not in entries:
                entries[above.name.key] = above
                above = tiered.index.get(Name(name.namespace, above.parent)) if above.parent else None
            root = _root(name.key, entries, roots)
            found.append(Block(name, entry.fingerprint, entry.slot.nbytes, root))
    return found


def lots(blocks: Sequence[Block], *, durable: bool) -> Iterator[Lot]:
    """The blocks in portions, those of a chain together."""
    chains: dict[tuple[bytes, bytes, bytes], list[Block]] = {}
    for block in blocks:
        chains.setdefault((block.name.namespace, block.fingerprint, block.root), []).append(block)
    for (namespace, fingerprint, root), chain in chains.items():
        portion: list[Block] = []
        for block in chain:
            full = len(portion) == MOST_BLOCKS or sum(each.nbytes for each in portion) + block.nbytes > MOST_BYTES
            if portion and full:
                yield Lot(namespace, fingerprint, root, portion, durable)
                portion = []
            portion.append(block)
        yield Lot(namespace, fingerprint, root, portion, durable)


def _block(tiered: TieredStore, tier: ColdTier, name: Name, deadline: Deadline) -> Block | None:
    with tiered.index.changed:
        entry = tiered.index.get(name)
        if entry is not None and entry.ready:
            return Block(name, entry.fingerprint, entry.slot.nbytes, name.key)
    (data,) = tier.get_many(name.namespace, [name.key], deadline)
    if data is None or isinstance(data, CorruptBlock):
        return None
    try:
        return Block(name, Header.parse(data).fingerprint, data.nbytes, name.key)
    except CorruptBlock:
        return None


def _root(key: bytes, entries: dict[bytes, Entry], known: dict[bytes, bytes]) -> bytes:
    """The first block of a chain that is here."""
    passed = []
    while key not in known:
        passed.append(key)
        parent = entries[key].parent
        # what a writer says of parents may go round in a circle
        if parent is None or parent not in entries or parent in passed:
            known[key] = key
            break
        key = parent
    root = known[key]
    known.update(dict.fromkeys(passed, root))
    return root
