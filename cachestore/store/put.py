"""An open put: memory is reserved first, planes are written in any order, blocks appear when they are committed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, Into, pieces
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.codecs.planes import encode_plane, holds
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, CacheStoreError, DeadlineExceeded, InvalidArgument, Overloaded
from cachestore.hashing import Chain
from cachestore.index import Entry
from cachestore.store import copying, together
from cachestore.store.arriving import Arrival, unsound
from cachestore.store.base import BlockPlan, Durability, Lease, PutAnswer, PutStatus
from cachestore.store.checks import check_blocks, check_encoded, check_kept, check_whole
from cachestore.store.committing import Committing
from cachestore.store.durability import lacking_nodes
from cachestore.store.joint import own_plans
from cachestore.store.laying import OpenBlock
from cachestore.store.reserving import Reserved
from cachestore.store.room import lacking
from cachestore.store.spread import Spread

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
    owner: bytes = b""
    groups: range | None = None
    promised: dict[bytes, int] = field(default_factory=dict)
    """Bytes of wanted blocks by key that are taken out of the namespace's durable quota."""
    id: bytes = field(default_factory=lambda: os.urandom(16))
    on_end: Callable[[], Any] = lambda: None
    _blocks: Reserved = field(init=False)
    _committing: Committing = field(init=False)
    _over: bool = False
    _why: CacheStoreError | None = None
    """What the writer is told of an end that was not its own."""
    _writing: Lock = field(default_factory=Lock)
    """Held while bytes go into a slot. An abort gives slots to others at once, so it waits for that."""

    def __post_init__(self) -> None:
        self._blocks = Reserved(
            self.tiered, self.namespace, self.chain, self.plans, self.after, self.deadline, self.owner, self.groups
        )
        self.plans = own_plans(self.plans, self.groups)
        self._committing = Committing(self.tiered, self._blocks, self._writing, self._durable, self.ttl, self.deadline)

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
        return tuple(self._blocks.answers)

    @property
    def wanted(self) -> set[bytes]:
        """The keys of the blocks that are still wanted."""
        return self._blocks.wanted

    def reserve(self) -> None:
        """Takes memory for every block that is not there yet, and answers for all."""
        self._blocks.reserve(durable=self._durable, ttl=self.ttl)

    def write(self, block: int, plane: int, data: Buffer) -> None:
        open_block = self._writable(block, plane)
        if open_block is None:
            return
        run = open_block.layout.run(block, plane, data)
        if not open_block.written.isdisjoint(run.planes):
            raise InvalidArgument(f"one of the planes {plane} to {run.planes[-1]} of block {block} was written before")
        if self.codec.id == RAW:
            with self._writing:
                self._check_open()
                open_block.append_run(run, data)
                self._tell(open_block, run.planes)
            return
        for number, place in zip(run.planes, run.packed, strict=True):
            encoded = encode_plane(self.codec, data[place], open_block.layout.planes[number])
            self._append(open_block, number, encoded)
            self._tell(open_block, range(number, number + 1))

    def write_whole(self, blocks: Mapping[int, Into] | Spread) -> None:
        if isinstance(blocks, Spread):
            blocks.check_planned(self.plans)
            blocks = dict(enumerate(blocks))
        else:
            check_whole(self.plans, blocks)
        for block in blocks:
            open_block = self._blocks.open.get(block)
            if open_block is not None and open_block.written:
                raise InvalidArgument(f"one of the planes of block {block} was written before")
        for block, data in blocks.items():
            for plane, piece in enumerate(pieces(data)):
                self.write(block, plane, piece)

    def write_encoded(self, block: int, plane: int, *encoded: Encoded) -> None:
        open_block = self._writable(block, plane)
        if open_block is None:
            return
        planes = check_encoded(self.plans[block].planes, block, plane, encoded)
        if not open_block.written.isdisjoint(planes):
            raise InvalidArgument(f"one of the planes {plane} to {planes[-1]} of block {block} was written before")
        for number, each in zip(planes, encoded, strict=True):
            stored = self._append(open_block, number, each)
            open_block.failed |= not holds(each, stored)
            self._tell(open_block, range(number, number + 1))

    @property
    def over(self) -> bool:
        """Whether nothing more of it can be stored."""
        return self._over or not self.deadline.remaining()

    @contextmanager
    def arriving(self, block: int, planes: range, stored: NDArray[np.void] | None) -> Iterator[Arrival]:
        """Memory for planes of a wanted block, to be filled inside by somebody else; without checksums it fails.

        `stored` has the codec and stored bytes of each; with None all are raw. One that does not hold fails the block,
        and so does an end by an exception. An abort does not wait for it: the slot stays until the end.
        """
        open_block = self._writable(block, planes.start)
        if open_block is None or planes.stop > len(open_block.layout.planes):
            raise InvalidArgument(f"planes {planes.start} to {planes.stop - 1} of block {block} are not wanted")
        raw_bytes = open_block.layout.table["raw_bytes"][planes.start : planes.stop]
        wrong = unsound(raw_bytes, stored) if stored is not None else ""
        if wrong:
            raise InvalidArgument(f"planes {planes.start} to {planes.stop - 1} of block {block}: {wrong}")
        with self._writing:
            self._check_open()
            if self._blocks.open.get(block) is not open_block or not open_block.written.isdisjoint(planes):
                raise InvalidArgument(f"planes {planes.start} to {planes.stop - 1} of block {block} are not all wanted")
            arrival = open_block.expect(planes, stored)
            with self.tiered.index.changed:
                self.tiered.index.use(open_block.entry)
        try:
            yield arrival
        except BaseException:
            arrival.good = False
            raise
        finally:
            with self._writing:
                open_block.failed |= not arrival.good
                open_block.arriving -= 1
                self._tell(open_block, planes)
            with self.tiered.index.changed:
                self.tiered.index.leave(open_block.entry)

    def lend(self) -> dict[int, Entry]:
        """The wanted blocks by number, for a writer elsewhere: their slots stay, whatever becomes of the put.

        The caller gives them back with `index.leave`, once that writer cannot write there any more.
        """
        with self.tiered.index.changed:
            together.lend(self._blocks.open.values())
            for open_block in self._blocks.open.values():
                self.tiered.index.use(open_block.entry)
            self._blocks.journal.look = self._look
            return {number: open_block.entry for number, open_block in self._blocks.open.items()}

    def adopt(self, blocks: Sequence[int]) -> None:
        """Wanted blocks were laid into their slots by a writer elsewhere, who is done with them.

        The plane table of each stands at the front of its slot; one that does not hold fails the block.
        """
        check_blocks(blocks, len(self.plans))
        opened = self._blocks.open
        laid = {block: opened[block] for block in blocks if block in opened}
        twice = next((block for block, open_block in laid.items() if open_block.written), None)
        if twice is not None:
            raise InvalidArgument(f"block {twice} was written before")
        with self._writing:
            self._check_open()
            together.adopt(list(laid.values()))
        if self.tiered.sealed:
            for block, open_block in laid.items():
                if not open_block.failed:
                    self._take_over(block, open_block)

    def _take_over(self, number: int, open_block: OpenBlock) -> None:
        """Copies a block out of its writer's memory and verifies it where the writer cannot reach it."""
        slot = self.tiered.take(self.namespace, open_block.nbytes, self.deadline)
        if slot is None:
            slot = self.tiered.stage(self.namespace, open_block.nbytes)
        if slot is None:
            self._blocks.drop(number, PutStatus.NOT_KEPT, lacking(self.tiered, self.namespace, open_block.nbytes))
            return
        with self._writing:
            # an abort waits for this, so the slot stays its block's while it is copied
            np.copyto(slot.bytes, open_block.entry.slot.bytes[: slot.nbytes])
            with self.tiered.index.changed:
                unused = open_block.move(slot) if self._blocks.open.get(number) is open_block else slot
                self.tiered.give(unused)
            open_block.verify()

    def commit(self, blocks: Sequence[int] | None = None, *, lease: float = 0.0) -> Lease | None:
        if not self.deadline.remaining():
            self.abort()
        self._check_open()
        if lease:
            # before anything is published: a commit that is refused for its lease has stored nothing
            self.local.lease_ttl(lease)
        # one that is named twice is one block
        chosen = list(self._blocks.open) if blocks is None else list(dict.fromkeys(blocks))
        check_blocks(chosen, len(self.plans))
        if self.groups is not None:
            self._committing.gather(chosen)
        self._committing.lower(chosen)
        try:
            published = self._committing.publish(chosen)
        finally:
            self.local.puts.keep_promise(self)
        copying.write(self.tiered, published)
        if self._durable:
            # also those that were there before and could not be made durable
            named = range(len(self.plans)) if blocks is None else blocks
            check_kept(self._blocks.answers, named, lacking_nodes(self.tiered, self.namespace))
        granted = None
        if lease:
            # what is published stays so: a namespace that has too many leases gets none, and no error for it
            with suppress(Overloaded):
                granted = self.local.lease(self.chain, ttl=lease, timeout=max(self.deadline.remaining(), 1e-3))
        return granted

    def abort(self) -> None:
        """Gives up every block that is not committed."""
        self.give_up()

    def give_up(self, why: CacheStoreError | None = None) -> int:
        """Does the same and says how many blocks that were; the writer is told `why` from then on."""
        with self._writing:
            if not self._over:
                self._over, self._why = True, why
            dropped = self._blocks.give_up()
        self.on_end()
        return dropped

    @property
    def _durable(self) -> bool:
        return self.durability is Durability.DURABLE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.abort()

    def _writable(self, block: int, plane: int) -> OpenBlock | None:
        if not 0 <= block < len(self.plans):
            raise InvalidArgument(f"block {block} is not one of the {len(self.plans)} reserved")
        if not 0 <= plane < len(self.plans[block].planes):
            raise InvalidArgument(f"plane {plane} is not one of the {len(self.plans[block].planes)} of block {block}")
        self._check_open()
        open_block = self._blocks.open.get(block)
        if open_block is not None and plane in open_block.written:
            raise InvalidArgument(f"plane {plane} of block {block} was written before")
        return open_block

    def _check_open(self) -> None:
        if self._over:
            if not self.deadline.remaining():
                raise DeadlineExceeded("the put's deadline passed; nothing more of it is stored")
            raise self._why or Aborted("the put was aborted")

    def _append(self, open_block: OpenBlock, plane: int, encoded: Encoded) -> Buffer:
        with self._writing:
            self._check_open()
            return open_block.append(plane, encoded)

    def _look(self) -> None:
        """Tells those who follow the blocks that were lent what their writer has laid, in the order of its writes."""
        with self._writing:
            if self._over:
                return
            opened = list(self._blocks.open.values())
            laid = [(write, block, planes) for block in opened for write, planes in block.look()]
            for _, open_block, planes in sorted(laid, key=itemgetter(0)):
                self._tell(open_block, planes)

    def _tell(self, open_block: OpenBlock, planes: range) -> None:
        """Lets those who follow the block know that these planes of it are there."""
        if not open_block.failed:
            self._blocks.journal.add(open_block.entry.name.key, planes)
