"""The blocks of a put, from their reservation to their end: some are there already, for the others memory is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.errors import TooLarge
from cachestore.hashing import Chain
from cachestore.index import Entry, Name
from cachestore.store.base import BlockPlan, PutAnswer, PutStatus
from cachestore.store.durability import upgrade
from cachestore.store.joint import Joint, Share
from cachestore.store.laying import Layout, OpenBlock, layout_of
from cachestore.store.provisional import Journal
from cachestore.store.removal import take_back
from cachestore.store.room import lacking

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

AT_ONCE = 64
"""Blocks that are opened under one hold of the lock, which everybody waits for."""

TIERS, DURABILITY = "tiers", "durability"
"""Why a block is not kept, beside what memory lacked: no other tier took it; it is there, but not for good."""


@dataclass(eq=False)
class Reserved:
    """The latest answer for every block of a put, and the wanted ones as `open` blocks by number.

    `after` is the key of the block before the first, if known; `owner` writes in memory of its own. With `groups` the
    blocks are written together with other puts, and open here are shares of them.
    """

    tiered: TieredStore
    namespace: bytes
    chain: Chain
    plans: Sequence[BlockPlan]
    after: bytes | None
    deadline: Deadline
    owner: bytes = b""
    groups: range | None = None
    answers: list[PutAnswer] = field(default_factory=list)
    open: dict[int, OpenBlock] = field(default_factory=dict)
    journal: Journal = field(default_factory=Journal)
    _layouts: dict[int, Layout] = field(default_factory=dict)
    _reasons: dict[int, str] = field(default_factory=dict)
    """Why a block is not kept, by number."""
    _held: list[Entry] = field(default_factory=list)
    """Blocks of the chain that were there before or are by now: none may leave for those that come behind it."""

    def reserve(self, *, durable: bool, ttl: float | None) -> None:
        """Takes memory for every block that is not there yet, and answers for all.

        With `durable`, blocks that are there become so for `ttl` seconds at least. TooLarge if one can never be held.
        """
        largest = self.tiered.memory.largest()
        # by identity: the blocks of a put share their planes
        for plan in {id(plan.planes): plan for plan in self.plans}.values():
            if self._layout(plan).nbytes > largest:
                raise TooLarge(
                    f"a block of {plan.raw_bytes} bytes is more than this store ever takes, which is {largest} with "
                    "its header; lower engine.block_tokens, or let the store have more memory"
                )
        self._hold()
        missing = self._missing()
        elsewhere = self._elsewhere(missing)
        nowhere = set(missing) - elsewhere.keys()
        upgraded = self._upgraded(self.chain.keys, elsewhere, ttl) if durable else None
        free = self.groups is None
        try:
            while (number := len(self.answers)) < len(self.plans):
                plan = self.plans[number]
                if free and plan.key in nowhere:
                    free = self._reserve_alike(nowhere)
                    continue
                # what is nowhere is looked for only once there is memory for it
                known = None if plan.key in nowhere else self._known(number, plan, elsewhere)
                answer = known or self._reserve(number, plan)
                if upgraded is not None and answer.status is PutStatus.ALREADY_EXISTS:
                    if plan.key not in upgraded:
                        # another writer may have published it just now
                        upgraded |= self._upgraded([plan.key], elsewhere, ttl)
                    tier = upgraded.get(plan.key, "")
                    answer = answer._replace(tier=tier) if tier else self._not_kept(number, DURABILITY)
                self.answers.append(answer)
        finally:
            self._count_first()

    def finish(self, number: int) -> None:
        """Makes a share final. The block is open in its place if that was the last one; else it is left to others."""
        share = self.open.get(number)
        if not isinstance(share, Share):
            return
        joint = None
        with self.tiered.index.changed:
            final = share.whole and not share.joint.given_up
            if final:
                joint = self.tiered.joint.finish(share)
            if joint is not None:
                self.open[number] = joint
            elif final:
                del self.open[number]
                self.answers[number] = PutAnswer(number, PutStatus.IN_PROGRESS)
                self.tiered.counters(self.namespace).add("put_open", -1)
                self._count([self.answers[number]])
        if joint is not None:
            joint.lay()
        elif not final:
            self.drop(number, PutStatus.FAILED)

    def stored(self, tiers: Mapping[int, str]) -> None:
        """Open blocks were published, or are kept by a tier alone; which tier has each. Under the lock, not counted."""
        index, journals, joint = self.tiered.index, self.tiered.journals, self.tiered.joint
        for number, tier in tiers.items():
            open_block = self.open.pop(number)
            journals.closed(open_block, published=True)
            self.answers[number] = PutAnswer(number, PutStatus.STORED, tier)
            if not open_block.entry.gone:
                index.use(open_block.entry)
                self._held.append(open_block.entry)
            joint.published(open_block)

    def drop(self, number: int, status: PutStatus | None, reason: str = TIERS) -> None:
        """Takes an open block back; `status` None means aborted, and `reason` says why it is NOT_KEPT."""
        with self.tiered.index.changed:
            open_block = self.open.pop(number, None)
            if open_block is None:
                return
            self._reasons[number] = reason
            over = self._close(number, open_block, status)
        take_back(self.tiered, over)

    def give_up(self) -> int:
        """Takes all open blocks back and lets go of those that were there before, or since; how many were open."""
        with self.tiered.index.changed:
            dropped = list(self.open.items())
            self.open.clear()
            over = [entry for number, open_block in dropped for entry in self._close(number, open_block, None)]
        take_back(self.tiered, over)
        with self.tiered.index.changed:
            while self._held:
                self.tiered.index.leave(self._held.pop())
        return len(dropped)

    @property
    def wanted(self) -> set[bytes]:
        """The keys of the open blocks."""
        with self.tiered.index.changed:
            return {open_block.entry.name.key for open_block in self.open.values()}

    def _close(self, number: int, open_block: OpenBlock, status: PutStatus | None) -> list[Entry]:
        """Nothing comes of a block here; its entry if it is over with that. Others may have ended it before."""
        over = True
        if isinstance(open_block, Joint | Share):
            over = self.tiered.joint.give_up(open_block)
        else:
            self.tiered.journals.closed(open_block, published=False)
        self.answers[number] = PutAnswer(number, status or PutStatus.FAILED)
        counters = self.tiered.counters(self.namespace)
        counters.add("put_open", -1)
        if status is None:
            counters.add("put_aborted")
        else:
            self._count([self.answers[number]])
        return [open_block.entry] if over else []

    def _layout(self, plan: BlockPlan) -> Layout:
        # by identity: the blocks of a put share their planes, and comparing those costs more than all the rest
        layout = self._layouts.get(id(plan.planes))
        if layout is None:
            layout = self._layouts[id(plan.planes)] = layout_of(plan.planes)
        return layout

    def _hold(self) -> None:
        with self.tiered.index.changed:
            ready = self.tiered.index.ready(self.namespace, self.chain.fingerprint)
            before = (self.after, *self.chain.keys) if self.after is not None else self.chain.keys
            for entry in filter(None, map(ready.get, before)):
                self.tiered.index.use(entry)
                self._held.append(entry)

    def _missing(self) -> list[bytes]:
        """The keys of which memory has no block, nor one that is being written."""
        index = self.tiered.index
        with index.changed:
            there = index.all_of(self.namespace)
            return [key for key in self.chain.keys if key not in there]

    def _elsewhere(self, missing: Sequence[bytes]) -> dict[bytes, str]:
        """Those of these keys that a cold tier has, and which."""
        found: dict[bytes, str] = {}
        for tier in self.tiered.cold:
            for key, there in zip(missing, tier.present(self.namespace, missing, self.deadline), strict=True):
                if there and not self.tiered.unreadable.has(tier.name, self.namespace, key):
                    found.setdefault(key, tier.name)
        return found

    def _upgraded(self, keys: Sequence[bytes], elsewhere: dict[bytes, str], ttl: float | None) -> dict[bytes, str]:
        """Makes the blocks durable that are there already; by key, the tier that keeps each from now on, or ""."""
        with self.tiered.index.changed:
            ready = self.tiered.index.ready(self.namespace, self.chain.fingerprint)
            keys = [key for key in keys if key in ready or key in elsewhere]
        done = upgrade(self.tiered, self.namespace, keys, self.chain.fingerprint, self.deadline, ttl) if keys else {}
        return dict.fromkeys(keys, "") | done

    def _known(self, number: int, plan: BlockPlan, elsewhere: dict[bytes, str]) -> PutAnswer | None:
        name = Name(self.namespace, plan.key)
        with self.tiered.index.changed:
            entry = self.tiered.index.get(name)
            if self.groups is not None:
                joint = self.tiered.joint.joinable(name, self.chain.fingerprint, plan, self.groups)
                if joint is not None:
                    self.open[number] = self.tiered.joint.join(joint, self.groups, self.deadline)
                    return PutAnswer(number, PutStatus.WANTED)
        if entry is not None and entry.fingerprint != self.chain.fingerprint:
            return PutAnswer(number, PutStatus.KEPT_FIRST)
        if entry is not None:
            status = PutStatus.ALREADY_EXISTS if entry.ready else PutStatus.IN_PROGRESS
            return PutAnswer(number, status, self.tiered.memory.name if entry.ready else "")
        tier = elsewhere.get(plan.key)
        # making it durable may just have shown that it cannot be read
        if tier is not None and not self.tiered.unreadable.has(tier, self.namespace, plan.key):
            return PutAnswer(number, PutStatus.ALREADY_EXISTS, tier)
        return None

    def _reserve_alike(self, nowhere: Set[bytes]) -> bool:
        """Answers for the next blocks, all at once, that are nowhere and alike; False if memory was not free for all.

        One by one that takes longer than anything else that a put of small blocks needs.
        """
        number = len(self.answers)
        planes, layout = self.plans[number].planes, self._layout(self.plans[number])
        index, journals = self.tiered.index, self.tiered.journals
        with index.changed:
            there = index.all_of(self.namespace)
            some = self.plans[number : number + AT_ONCE]
            alike = list(takewhile(lambda p: p.planes is planes and p.key in nowhere and p.key not in there, some))
            slots = self.tiered.take_free(self.namespace, layout.nbytes, len(alike), self.owner) if alike else []
            parent = self.plans[number - 1].key if number else self.after
            for plan, slot in zip(alike, slots, strict=False):
                entry = index.reserve(Name(self.namespace, plan.key), self.chain.fingerprint, slot, parent)
                self.open[number] = open_block = OpenBlock(entry, plan, layout)
                journals.opened(open_block, self.journal)
                self.answers.append(PutAnswer(number, PutStatus.WANTED))
                number, parent = number + 1, plan.key
        return 0 < len(slots) == len(alike)

    def _reserve(self, number: int, plan: BlockPlan) -> PutAnswer:
        layout = self._layout(plan)
        slot = self.tiered.take(self.namespace, layout.nbytes, self.deadline, self.owner)
        if slot is None:
            slot = self.tiered.stage(self.namespace, layout.nbytes, self.owner)
        if slot is None:
            return self._not_kept(number, lacking(self.tiered, self.namespace, layout.nbytes))
        name = Name(self.namespace, plan.key)
        parent = self.plans[number - 1].key if number else self.after
        with self.tiered.index.changed:
            if (known := self._known(number, plan, {})) is not None:
                self.tiered.give(slot)
                return known
            entry = self.tiered.index.reserve(name, self.chain.fingerprint, slot, parent)
            if self.groups is None:
                self.open[number] = open_block = OpenBlock(entry, plan, layout)
                self.tiered.journals.opened(open_block, self.journal)
            else:
                joint = Joint(entry, plan, layout)
                self.open[number] = self.tiered.joint.join(joint, self.groups, self.deadline)
                # nobody follows it: its planes move once more when they are laid together
                self.tiered.journals.opened(joint, Journal())
        return PutAnswer(number, PutStatus.WANTED)

    def _count_first(self) -> None:
        """Counts the answers there are, before any of them changes."""
        with self.tiered.index.changed:
            self.tiered.counters(self.namespace).add("put_blocks", len(self.answers))
            self._count(self.answers)

    def _not_kept(self, number: int, reason: str) -> PutAnswer:
        self._reasons[number] = reason
        return PutAnswer(number, PutStatus.NOT_KEPT)

    def _count(self, answers: Sequence[PutAnswer]) -> None:
        counters = self.tiered.counters(self.namespace)
        statuses = Counter(answer.status for answer in answers)
        for status, alike in statuses.items():
            if status is not PutStatus.NOT_KEPT:
                counters.add("put_open" if status is PutStatus.WANTED else f"put_{status}", alike)
        if PutStatus.NOT_KEPT not in statuses:
            return
        not_kept = [self._reasons[answer.block] for answer in answers if answer.status is PutStatus.NOT_KEPT]
        for reason, alike in Counter(not_kept).items():
            counters.add("put_not_kept", alike, reason=reason)
