"""An open put: memory is reserved first, planes are written in any order, blocks appear when they are committed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, Half
from cachestore.codecs.base import Encoded
from cachestore.codecs.planes import encode_plane
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, DeadlineExceeded, InvalidArgument, TooLarge
from cachestore.hashing import Chain
from cachestore.index import Entry, Name
from cachestore.seal import OPAQUE, SHORT, Header, aligned, checksum, header_bytes, table_of
from cachestore.store.base import BlockPlan, Lease, PutAnswer, PutStatus

if TYPE_CHECKING:
    from cachestore.store.local import LocalStore
    from cachestore.store.tiered import TieredStore


@dataclass(eq=False)
class _Open:
    """One block that is being written: planes are appended in the order in which they come."""

    entry: Entry
    table: NDArray[np.void]
    start: int
    written: set[int] = field(default_factory=set)
    end: int = 0
    failed: bool = False


@dataclass(eq=False)
class LocalPut:
    """Follows `cachestore.store.base.Put`. One thread writes it; another may abort it."""

    local: LocalStore
    chain: Chain
    plans: list[BlockPlan]
    ttl: float | None
    deadline: Deadline
    id: bytes = field(default_factory=lambda: os.urandom(16))
    on_end: Callable[[], Any] = lambda: None
    _answers: list[PutAnswer] = field(default_factory=list)
    _open: dict[int, _Open] = field(default_factory=dict)
    _over: bool = False

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
            if self._size(plan) > largest:
                raise TooLarge(
                    f"a block of {plan.raw_bytes} bytes can never be held by tiers.cpu.capacity = "
                    f"{self.tiered.memory.capacity}; raise it, or lower engine.block_tokens"
                )
        counters = self.tiered.counters(self.namespace)
        counters.add("put_blocks", len(self.plans))
        elsewhere = self._elsewhere()
        for number, plan in enumerate(self.plans):
            answer = self._known(number, plan, elsewhere) or self._reserve(number, plan)
            self._answers.append(answer)
            if answer.status is PutStatus.WANTED:
                counters.add("put_open")
            else:
                self._count(answer)

    def write(self, block: int, plane: int, data: Buffer) -> None:
        open_block = self._writable(block, plane)
        if open_block is None:
            return
        place = self.plans[block].planes[plane]
        if data.nbytes != place.raw_bytes:
            raise InvalidArgument(f"plane {plane} of block {block} wants {place.raw_bytes} bytes, got {data.nbytes}")
        self._place(open_block, plane, encode_plane(self.tiered.codec, data, place.item_bytes))

    def write_encoded(self, block: int, plane: int, encoded: Encoded) -> None:
        """One plane in its stored form; a checksum that does not hold fails the block."""
        open_block = self._writable(block, plane)
        if open_block is None:
            return
        raw_bytes = self.plans[block].planes[plane].raw_bytes
        if encoded.raw_bytes != raw_bytes or encoded.stored.nbytes > raw_bytes:
            raise InvalidArgument(f"plane {plane} of block {block} wants {raw_bytes} raw bytes, no more stored")
        self._place(open_block, plane, encoded)
        row = open_block.table[plane]
        stored = open_block.entry.slot.bytes[open_block.start + int(row["offset"]) :][: encoded.stored.nbytes]
        open_block.failed |= checksum(stored) != encoded.stored_checksum

    def commit(self, blocks: Sequence[int] | None = None, *, lease: float = 0.0) -> Lease | None:
        if self._over:
            raise Aborted("the put is over: it was aborted or its deadline passed")
        chosen = list(self._open) if blocks is None else [block for block in blocks if block in self._open]
        published: list[Entry] = []
        for number in chosen:
            open_block = self._open[number]
            if open_block.failed or len(open_block.written) < len(self.plans[number].planes):
                self._drop(number, PutStatus.FAILED)
                continue
            self._seal(number, open_block)
            with self.tiered.index.changed:
                if self._open.pop(number, None) is None:
                    continue
                self.tiered.memory.shrink(open_block.entry.slot, open_block.start + open_block.end)
                self.tiered.publish(open_block.entry)
                published.append(open_block.entry)
            self._answer(PutAnswer(number, PutStatus.STORED, self.tiered.memory.name))
        granted = None
        if lease > 0:
            granted = self.local.lease(self.chain, ttl=lease, timeout=max(self.deadline.remaining(), 1e-3))
        self.tiered.write_through(published, self.ttl)
        return granted

    def abort(self) -> int:
        """Gives up every block that is not committed; how many there were."""
        with self.tiered.index.changed:
            self._over = True
            numbers = list(self._open)
            for number in numbers:
                self._drop(number, None)
        self.on_end()
        return len(numbers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.abort()

    def _size(self, plan: BlockPlan) -> int:
        return header_bytes(len(plan.planes)) + sum(aligned(plane.raw_bytes) for plane in plan.planes)

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

    def _known(self, number: int, plan: BlockPlan, elsewhere: dict[bytes, str]) -> PutAnswer | None:
        with self.tiered.index.changed:
            entry = self.tiered.index.get(Name(self.namespace, plan.key))
        if entry is not None:
            status = PutStatus.ALREADY_EXISTS if entry.ready else PutStatus.IN_PROGRESS
            return PutAnswer(number, status, self.tiered.memory.name if entry.ready else "")
        if plan.key in elsewhere:
            return PutAnswer(number, PutStatus.ALREADY_EXISTS, elsewhere[plan.key])
        return None

    def _reserve(self, number: int, plan: BlockPlan) -> PutAnswer:
        slot = self.tiered.take(self.namespace, self._size(plan), self.deadline)
        if slot is None:
            return PutAnswer(number, PutStatus.NOT_KEPT)
        name = Name(self.namespace, plan.key)
        with self.tiered.index.changed:
            if self.tiered.index.get(name) is not None:
                self.tiered.memory.give(slot)
                return PutAnswer(number, PutStatus.IN_PROGRESS)
            entry = self.tiered.index.reserve(name, self.chain.fingerprint, slot)
            self._open[number] = _Open(entry, table_of(plan.planes), header_bytes(len(plan.planes)))
        return PutAnswer(number, PutStatus.WANTED)

    def _writable(self, block: int, plane: int) -> _Open | None:
        if not 0 <= block < len(self.plans):
            raise InvalidArgument(f"block {block} is not one of the {len(self.plans)} reserved")
        if not 0 <= plane < len(self.plans[block].planes):
            raise InvalidArgument(f"plane {plane} is not one of the {len(self.plans[block].planes)} of block {block}")
        if self._over:
            if not self.deadline.remaining():
                raise DeadlineExceeded("the put's deadline passed; nothing more of it is stored")
            raise Aborted("the put was aborted")
        open_block = self._open.get(block)
        if open_block is not None and plane in open_block.written:
            raise InvalidArgument(f"plane {plane} of block {block} was written before")
        return open_block

    def _place(self, open_block: _Open, plane: int, encoded: Encoded) -> None:
        with self.tiered.index.changed:
            # an abort takes the slot back at once unless it is in use
            if self._over:
                raise Aborted("the put was aborted")
            self.tiered.index.use(open_block.entry)
        try:
            row, offset = open_block.table[plane], open_block.end
            target = open_block.entry.slot.bytes[open_block.start + offset :][: encoded.stored.nbytes]
            np.copyto(target, encoded.stored)
            row["codec"], row["offset"], row["stored_bytes"] = encoded.codec, offset, encoded.stored.nbytes
            row["stored_checksum"], row["raw_checksum"] = encoded.stored_checksum, encoded.raw_checksum
            open_block.end = aligned(offset + encoded.stored.nbytes)
            open_block.written.add(plane)
        finally:
            with self.tiered.index.changed:
                self.tiered.index.leave(open_block.entry)

    def _seal(self, number: int, open_block: _Open) -> None:
        plan = self.plans[number]
        flags = (SHORT if plan.short else 0) | (OPAQUE if plan.planes[0].half is Half.OPAQUE else 0)
        header = Header(
            self.namespace, plan.key, self.chain.fingerprint, plan.token_count, open_block.table,
            self.tiered.incarnation, self.tiered.next_sequence(), flags, open_block.end,
        )  # fmt: skip
        packed = header.pack()
        np.copyto(open_block.entry.slot.bytes[: len(packed)], np.frombuffer(packed, dtype=np.uint8))

    def _drop(self, number: int, status: PutStatus | None) -> None:
        """Takes an open block back; `status` None means aborted."""
        with self.tiered.index.changed:
            open_block = self._open.pop(number, None)
            if open_block is None:
                return
            self.tiered.index.remove(open_block.entry)
        if status is None:
            counters = self.tiered.counters(self.namespace)
            counters.add("put_open", -1)
            counters.add("put_aborted")
            self._answers[number] = PutAnswer(number, PutStatus.FAILED)
        else:
            self._answer(PutAnswer(number, status))

    def _answer(self, answer: PutAnswer) -> None:
        self._answers[answer.block] = answer
        self.tiered.counters(self.namespace).add("put_open", -1)
        self._count(answer)

    def _count(self, answer: PutAnswer) -> None:
        counters = self.tiered.counters(self.namespace)
        if answer.status is PutStatus.STORED:
            counters.add("put_stored", tier=answer.tier)
        else:
            counters.add(f"put_{answer.status}")
