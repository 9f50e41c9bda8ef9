"""An open put: memory is reserved first, planes are written in any order, blocks appear when they are committed."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cachestore.block import Buffer, Half
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.codecs.planes import copy_planes, encode_plane
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, DeadlineExceeded, DurabilityUnmet, InvalidArgument, TooLarge
from cachestore.hashing import Chain
from cachestore.index import Entry, Name
from cachestore.metrics import Counters
from cachestore.seal import (
    DURABLE,
    OPAQUE,
    PARENT_BYTES,
    SHORT,
    Header,
    Stored,
    aligned,
    checksum,
)
from cachestore.store import copying
from cachestore.store.base import BlockPlan, Durability, Lease, PutAnswer, PutStatus
from cachestore.store.durability import secure, upgrade
from cachestore.store.laying import Layout, OpenBlock, Run

if TYPE_CHECKING:
    from cachestore.store.local import LocalStore
    from cachestore.store.tiered import TieredStore


@dataclass(eq=False)
class LocalPut:
    """Follows `cachestore.store.base.Put`. One thread writes it; another may abort it."""

    local: LocalStore
    chain: Chain
    plans: list[BlockPlan]
    codec: Codec
    ttl: float | None
    deadline: Deadline
    after: bytes | None = None
    durability: Durability = Durability.CACHE
    id: bytes = field(default_factory=lambda: os.urandom(16))
    on_end: Callable[[], Any] = lambda: None
    _counters: Counters = field(init=False)
    _answers: list[PutAnswer] = field(default_factory=list)
    _open: dict[int, OpenBlock] = field(default_factory=dict)
    _layouts: dict[int, Layout] = field(default_factory=dict)
    _held: list[Entry] = field(default_factory=list)
    """Blocks of the chain that were there before: they must not leave for those that come behind them."""
    _over: bool = False
    _writing: Lock = field(default_factory=Lock)
    """Held while bytes go into a slot. An abort gives slots to others at once, so it waits for that."""

    def __post_init__(self) -> None:
        self._counters = self.tiered.counters(self.namespace)

    @property
    def tiered(self) -> TieredStore:
        """The store that is written to."""
        return self.local.tiered

    @property
    def namespace(self) -> bytes:
        """The namespace that is written to."""
        return self.local.namespace

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return tuple(self._answers)

    def reserve(self) -> None:
        """Takes memory for every block that is not there yet, and answers for all."""
        largest = self.tiered.memory.largest()
        for plan in self.plans:
            if self._layout(plan).nbytes > largest:
                raise TooLarge(
                    f"a block of {plan.raw_bytes} bytes can never be held by tiers.cpu.capacity = "
                    f"{self.tiered.memory.capacity}; raise it, or lower engine.block_tokens"
                )
        self._hold()
        elsewhere = self._elsewhere()
        upgraded = self._upgraded(elsewhere) if self.durability is Durability.DURABLE else None
        try:
            for number, plan in enumerate(self.plans):
                known = self._known(number, plan, elsewhere)
                if known is not None and known.status is PutStatus.ALREADY_EXISTS and upgraded is not None:
                    tier = upgraded.get(plan.key, "")
                    known = PutAnswer(number, PutStatus.ALREADY_EXISTS if tier else PutStatus.NOT_KEPT, tier)
                self._answers.append(known or self._reserve(number, plan))
        finally:
            self._count_first()

    def write(self, block: int, plane: int, data: Buffer) -> None:
        open_block = self._writable(block, plane)
        if open_block is None:
            return
        run = open_block.layout.run(block, plane, data)
        if not open_block.written.isdisjoint(run.planes):
            raise InvalidArgument(f"one of the planes {plane} to {run.planes[-1]} of block {block} was written before")
        if self.codec.id == RAW:
            self._copy(open_block, run, data)
            return
        for number, place in zip(run.planes, run.packed, strict=True):
            encoded = encode_plane(self.codec, data[place], open_block.layout.planes[number])
            self._place(open_block, number, encoded)

    def write_encoded(self, block: int, plane: int, encoded: Encoded) -> None:
        """One plane in its stored form; a checksum that does not hold fails the block."""
        open_block = self._writable(block, plane)
        if open_block is None:
            return
        raw_bytes = self.plans[block].planes[plane].raw_bytes
        if encoded.raw_bytes != raw_bytes or encoded.stored.nbytes > raw_bytes:
            raise InvalidArgument(f"plane {plane} of block {block} wants {raw_bytes} raw bytes, no more stored")
        if by_id(encoded.codec) is None:
            raise InvalidArgument(
                f"plane {plane} of block {block}: codec {encoded.codec} is none that this store knows"
            )
        if encoded.codec == RAW and (encoded.stored.nbytes, encoded.stored_checksum) != (
            raw_bytes,
            encoded.raw_checksum,
        ):
            open_block.failed = True
        stored = self._place(open_block, plane, encoded)
        open_block.failed |= checksum(stored) != encoded.stored_checksum

    def commit(self, blocks: Sequence[int] | None = None, *, lease: float = 0.0) -> Lease | None:
        if not self.deadline.remaining():
            self.abort()
        self._check_open()
        chosen = list(self._open) if blocks is None else blocks
        if any(not 0 <= block < len(self.plans) for block in chosen):
            raise InvalidArgument(f"blocks must lie in 0 .. {len(self.plans) - 1}")
        self._lower(chosen)
        published: list[Entry] = []
        stored: Counter[str] = Counter()
        try:
            for number in chosen:
                entry = self._publish(number)
                if entry is not None:
                    published.append(entry)
                    stored[self._answers[number].tier] += 1
        finally:
            with self.tiered.index.changed:
                self._counters.add("put_open", -len(published))
                for tier, count in stored.items():
                    self._counters.add("put_stored", count, tier=tier)
        unmet = [number for number in chosen if self._answers[number].status is PutStatus.FAILED]
        if self.durability is Durability.DURABLE and unmet:
            raise DurabilityUnmet(
                f"{len(unmet)} of {len(chosen)} blocks were incomplete or found no tier that keeps them; put them again"
            )
        granted = None
        if lease > 0:
            granted = self.local.lease(self.chain, ttl=lease, timeout=max(self.deadline.remaining(), 1e-3))
        copying.write(self.tiered, published)
        return granted

    def abort(self) -> None:
        """Gives up every block that is not committed."""
        self.give_up()

    def give_up(self) -> int:
        """Does the same and says how many blocks that were."""
        with self._writing:
            self._over = True
            numbers = list(self._open)
            for number in numbers:
                self._drop(number, None)
            with self.tiered.index.changed:
                while self._held:
                    self.tiered.index.leave(self._held.pop())
        self.on_end()
        return len(numbers)

    def _publish(self, number: int) -> Entry | None:
        """Seals a wanted block and makes it visible; None if it is not wanted, not whole, or was aborted meanwhile."""
        with self._writing:
            open_block = self._open.get(number)
            if open_block is None:
                return None
            if not self._whole(number, open_block):
                self._drop(number, PutStatus.FAILED)
                return None
            entry = open_block.entry
            self._seal(number, open_block)
            with self.tiered.index.changed:
                # somebody may have removed the copies just now
                if self.durability is Durability.DURABLE and not entry.durable:
                    self._drop(number, PutStatus.FAILED)
                    return None
                if self.tiered.staged(entry.slot) and not entry.cold:
                    self._drop(number, PutStatus.NOT_KEPT)
                    return None
                del self._open[number]
                if self.tiered.staged(entry.slot):
                    self.tiered.index.remove(entry)
                else:
                    self.tiered.publish(entry, self.ttl)
                kept_by = min(entry.cold) if entry.cold else self.tiered.memory.name
                self._answers[number] = PutAnswer(number, PutStatus.STORED, kept_by)
            return entry

    def _lower(self, chosen: Sequence[int]) -> None:
        """Hands to lower tiers what must be there first: durable blocks, and those that memory has no room for."""
        entries = []
        with self._writing:
            for number in chosen:
                open_block = self._open.get(number)
                if open_block is None or not self._whole(number, open_block):
                    continue
                if self.durability is Durability.DURABLE or self.tiered.staged(open_block.entry.slot):
                    self._seal(number, open_block)
                    open_block.entry.ends = math.inf if self.ttl is None else time.monotonic() + self.ttl
                    entries.append(open_block.entry)
            with self.tiered.index.changed:
                for entry in entries:
                    self.tiered.index.use(entry)
        try:
            if entries and self.durability is Durability.DURABLE:
                secure(self.tiered, entries, self.deadline)
            elif entries:
                copying.copy_down(self.tiered, entries, self.deadline, everywhere=False)
        finally:
            with self.tiered.index.changed:
                for entry in entries:
                    self.tiered.index.leave(entry)

    def _whole(self, number: int, open_block: OpenBlock) -> bool:
        return not open_block.failed and len(open_block.written) == len(self.plans[number].planes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.abort()

    def _layout(self, plan: BlockPlan) -> Layout:
        # by identity: the blocks of a put share their planes, and comparing those costs more than all the rest
        layout = self._layouts.get(id(plan.planes))
        if layout is None:
            layout = self._layouts[id(plan.planes)] = Layout(plan.planes)
        return layout

    def _hold(self) -> None:
        with self.tiered.index.changed:
            ready = self.tiered.index.ready(self.namespace, self.chain.fingerprint)
            before = (self.after, *self.chain.keys) if self.after is not None else self.chain.keys
            for entry in filter(None, map(ready.get, before)):
                self.tiered.index.use(entry)
                self._held.append(entry)

    def _elsewhere(self) -> dict[bytes, str]:
        """The keys that only a cold tier has, and which."""
        index = self.tiered.index
        with index.changed:
            missing = [plan.key for plan in self.plans if index.get(Name(self.namespace, plan.key)) is None]
        found: dict[bytes, str] = {}
        for tier in self.tiered.cold:
            for key, there in zip(missing, tier.present(self.namespace, missing, self.deadline), strict=True):
                if there:
                    found.setdefault(key, tier.name)
        return found

    def _upgraded(self, elsewhere: dict[bytes, str]) -> dict[bytes, str]:
        """Makes the blocks durable that are there already; by key, the tier that keeps each from now on."""
        with self.tiered.index.changed:
            ready = self.tiered.index.ready(self.namespace, self.chain.fingerprint)
            keys = [key for key in self.chain.keys if key in ready or key in elsewhere]
        return (
            upgrade(self.tiered, self.namespace, keys, self.chain.fingerprint, self.deadline, self.ttl) if keys else {}
        )

    def _known(self, number: int, plan: BlockPlan, elsewhere: dict[bytes, str]) -> PutAnswer | None:
        with self.tiered.index.changed:
            entry = self.tiered.index.get(Name(self.namespace, plan.key))
        if entry is not None and entry.fingerprint != self.chain.fingerprint:
            return PutAnswer(number, PutStatus.KEPT_FIRST)
        if entry is not None:
            status = PutStatus.ALREADY_EXISTS if entry.ready else PutStatus.IN_PROGRESS
            return PutAnswer(number, status, self.tiered.memory.name if entry.ready else "")
        if plan.key in elsewhere:
            return PutAnswer(number, PutStatus.ALREADY_EXISTS, elsewhere[plan.key])
        return None

    def _parent(self, number: int) -> bytes | None:
        return self.plans[number - 1].key if number else self.after

    def _reserve(self, number: int, plan: BlockPlan) -> PutAnswer:
        layout = self._layout(plan)
        slot = self.tiered.take(self.namespace, layout.nbytes, self.deadline)
        if slot is None:
            slot = self.tiered.stage(self.namespace, layout.nbytes)
        if slot is None:
            return PutAnswer(number, PutStatus.NOT_KEPT)
        name = Name(self.namespace, plan.key)
        with self.tiered.index.changed:
            if (known := self._known(number, plan, {})) is not None:
                self.tiered.give(slot)
                return known
            entry = self.tiered.index.reserve(name, self.chain.fingerprint, slot, self._parent(number))
            self._open[number] = OpenBlock(entry, layout, slot.bytes[layout.start :], layout.table.copy())
        return PutAnswer(number, PutStatus.WANTED)

    def _writable(self, block: int, plane: int) -> OpenBlock | None:
        if not 0 <= block < len(self.plans):
            raise InvalidArgument(f"block {block} is not one of the {len(self.plans)} reserved")
        if not 0 <= plane < len(self.plans[block].planes):
            raise InvalidArgument(f"plane {plane} is not one of the {len(self.plans[block].planes)} of block {block}")
        self._check_open()
        open_block = self._open.get(block)
        if open_block is not None and plane in open_block.written:
            raise InvalidArgument(f"plane {plane} of block {block} was written before")
        return open_block

    def _check_open(self) -> None:
        if self._over:
            if not self.deadline.remaining():
                raise DeadlineExceeded("the put's deadline passed; nothing more of it is stored")
            raise Aborted("the put was aborted")

    def _copy(self, open_block: OpenBlock, run: Run, data: Buffer) -> None:
        """Appends planes as they are."""
        with self._writing:
            self._check_open()
            start = open_block.end
            sums = copy_planes(data, open_block.payload[start:], run.pieces)
            open_block.runs.append((run, start, sums))
            open_block.end = start + run.nbytes
            open_block.written.update(run.planes)

    def _place(self, open_block: OpenBlock, plane: int, encoded: Encoded) -> Buffer:
        """Appends a plane; its bytes in the slot."""
        codec, stored, _, stored_checksum, raw_checksum = encoded
        with self._writing:
            self._check_open()
            offset, size = open_block.end, stored.nbytes
            target = open_block.payload[offset : offset + size]
            np.copyto(target, stored)
            open_block.end = aligned(offset + size)
            row = Stored(codec, offset, size, stored_checksum, raw_checksum)
            for name, value in zip(Stored._fields, row, strict=True):
                open_block.table[name][plane] = value
            open_block.written.add(plane)
            return target

    def _seal(self, number: int, open_block: OpenBlock) -> None:
        if open_block.sealed:
            return
        open_block.sealed = True
        for run, start, sums in open_block.runs:
            rows = open_block.table[run.planes.start : run.planes.stop]
            rows["offset"] = run.offsets + start
            rows["stored_bytes"] = rows["raw_bytes"]
            rows["stored_checksum"] = rows["raw_checksum"] = np.array(sums, dtype="<u8")
        plan = self.plans[number]
        flags = (SHORT if plan.short else 0) | (OPAQUE if plan.planes[0].half is Half.OPAQUE else 0)
        flags |= DURABLE if self.durability is Durability.DURABLE else 0
        header = Header(
            self.namespace, plan.key, self.chain.fingerprint, plan.token_count, open_block.table,
            self.tiered.incarnation, self.tiered.next_sequence(), flags, open_block.end,
            expires=0 if self.ttl is None else round((time.time() + self.ttl) * 1000),
            parent=(self._parent(number) or bytes(PARENT_BYTES))[:PARENT_BYTES],
        )  # fmt: skip
        packed = header.pack()
        np.copyto(open_block.entry.slot.bytes[: len(packed)], np.frombuffer(packed, dtype=np.uint8))
        with self.tiered.index.changed:
            # before any tier sees it: what lies behind the last plane is no part of the block
            self.tiered.shrink(open_block.entry.slot, open_block.layout.start + open_block.end)

    def _drop(self, number: int, status: PutStatus | None) -> None:
        """Takes an open block back; `status` None means aborted."""
        with self.tiered.index.changed:
            open_block = self._open.pop(number, None)
            if open_block is None:
                return
            self.tiered.index.remove(open_block.entry)
            self._answers[number] = PutAnswer(number, status or PutStatus.FAILED)
            self._counters.add("put_open", -1)
            self._counters.add(f"put_{status}" if status else "put_aborted")

    def _count_first(self) -> None:
        """Counts the answers there are, before any of them changes."""
        with self.tiered.index.changed:
            self._counters.add("put_blocks", len(self._answers))
            for status, blocks in Counter(answer.status for answer in self._answers).items():
                self._counters.add("put_open" if status is PutStatus.WANTED else f"put_{status}", blocks)
