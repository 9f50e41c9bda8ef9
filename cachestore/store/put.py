"""An open put: memory is reserved first, planes are written in any order, blocks appear when they are committed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from cachestore.block import Buffer, Half
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW, Encoded
from cachestore.codecs.planes import encode_plane
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, DeadlineExceeded, InvalidArgument, TooLarge
from cachestore.hashing import Chain
from cachestore.index import Entry, Name
from cachestore.seal import OPAQUE, SHORT, Header, Stored, aligned, checksum, header_bytes, table_of
from cachestore.store.base import BlockPlan, Lease, PutAnswer, PutStatus

if TYPE_CHECKING:
    from cachestore.store.local import LocalStore
    from cachestore.store.tiered import TieredStore


_BYTE = np.dtype(np.uint8)


@dataclass(eq=False)
class _Open:
    """One block that is being written: planes are appended in the order in which they come."""

    entry: Entry
    start: int
    payload: Buffer
    written: dict[int, Stored] = field(default_factory=dict)
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
    after: bytes | None = None
    id: bytes = field(default_factory=lambda: os.urandom(16))
    on_end: Callable[[], Any] = lambda: None
    _answers: list[PutAnswer] = field(default_factory=list)
    _open: dict[int, _Open] = field(default_factory=dict)
    _over: bool = False
    _writing: Lock = field(default_factory=Lock)
    """Held while bytes go into a slot. An abort gives slots to others at once, so it waits for that."""

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
        elsewhere = self._elsewhere()
        for number, plan in enumerate(self.plans):
            self._first_answer(self._known(number, plan, elsewhere) or self._reserve(number, plan))

    def write(self, block: int, plane: int, data: Buffer) -> None:
        open_block = self._writable(block, plane)
        if open_block is None:
            return
        place = self.plans[block].planes[plane]
        if data.dtype != _BYTE or data.ndim != 1 or not data.flags.c_contiguous or data.nbytes != place.raw_bytes:
            raise InvalidArgument(
                f"plane {plane} of block {block} wants {place.raw_bytes} bytes in one piece, "
                f"got {data.dtype} of shape {data.shape}"
            )
        self._place(open_block, plane, encode_plane(self.tiered.codec, data, place))

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
        published = [entry for number in chosen if (entry := self._publish(number)) is not None]
        granted = None
        if lease > 0:
            granted = self.local.lease(self.chain, ttl=lease, timeout=max(self.deadline.remaining(), 1e-3))
        self.tiered.write_through(published)
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
        self.on_end()
        return len(numbers)

    def _publish(self, number: int) -> Entry | None:
        """Seals a wanted block and makes it visible; None if it is not wanted, not whole, or was aborted meanwhile."""
        with self._writing:
            open_block = self._open.get(number)
            if open_block is None:
                return None
            if open_block.failed or len(open_block.written) < len(self.plans[number].planes):
                self._drop(number, PutStatus.FAILED)
                return None
            self._seal(number, open_block)
            with self.tiered.index.changed:
                del self._open[number]
                self.tiered.memory.shrink(open_block.entry.slot, open_block.start + open_block.end)
                self.tiered.publish(open_block.entry, self.ttl)
                self._answer(PutAnswer(number, PutStatus.STORED, self.tiered.memory.name))
            return open_block.entry

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
        slot = self.tiered.take(self.namespace, self._size(plan), self.deadline)
        if slot is None:
            return PutAnswer(number, PutStatus.NOT_KEPT)
        name = Name(self.namespace, plan.key)
        with self.tiered.index.changed:
            if (known := self._known(number, plan, {})) is not None:
                self.tiered.memory.give(slot)
                return known
            entry = self.tiered.index.reserve(name, self.chain.fingerprint, slot, self._parent(number))
            start = header_bytes(len(plan.planes))
            self._open[number] = _Open(entry, start, slot.bytes[start:])
        return PutAnswer(number, PutStatus.WANTED)

    def _writable(self, block: int, plane: int) -> _Open | None:
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

    def _place(self, open_block: _Open, plane: int, encoded: Encoded) -> Buffer:
        """Appends a plane; its bytes in the slot."""
        codec, stored, _, stored_checksum, raw_checksum = encoded
        with self._writing:
            self._check_open()
            offset, size = open_block.end, stored.nbytes
            target = open_block.payload[offset : offset + size]
            np.copyto(target, stored)
            open_block.end = aligned(offset + size)
            open_block.written[plane] = Stored(codec, offset, size, stored_checksum, raw_checksum)
            return target

    def _seal(self, number: int, open_block: _Open) -> None:
        plan = self.plans[number]
        table = table_of(plan.planes, [open_block.written[plane] for plane in range(len(plan.planes))])
        flags = (SHORT if plan.short else 0) | (OPAQUE if plan.planes[0].half is Half.OPAQUE else 0)
        header = Header(
            self.namespace, plan.key, self.chain.fingerprint, plan.token_count, table,
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

    def _first_answer(self, answer: PutAnswer) -> None:
        with self.tiered.index.changed:
            self._answers.append(answer)
            self.tiered.counters(self.namespace).add("put_blocks")
            if answer.status is PutStatus.WANTED:
                self.tiered.counters(self.namespace).add("put_open")
            else:
                self._count(answer)

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
