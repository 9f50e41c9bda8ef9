"""Pages that workers of this node own and have registered: blocks on a device that the store's process need not see.

1. A page belongs to the namespace of the session that registered it, and is shown only to who can open its device.
2. It is looked at by its generation word, which its owner shares: what the owner took back is not shown any more,
   whether or not it said so by then. Its reader looks once more, after the copy.
3. Nothing here keeps a page: a lease on one protects its block's copy in memory, if there is one.
4. The first value of a key stays: a page of other bytes than one that is there is refused.
5. With the end of its session all that an owner registered is forgotten.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Lock

from cachestore.errors import InvalidArgument, Overloaded
from cachestore.hashing import Chain
from cachestore.metrics import Figure
from cachestore.store.owned_page import OfferedPage, OwnedPage, PageOwner, page_of
from cachestore.store.owned_slabs import OfferedSlab, OwnedSlab, ShownSlab
from cachestore.store.owned_slabs import opened as opened_slab
from cachestore.tiers.ledger import Ledger

TIER = "gpu"
"""What figures and answers call the tier of these pages."""

MOST_SLABS = 256
"""Of all owners: each takes up to three descriptors."""

FOR_EACH_LEFT = 3
"""Slabs that a namespace may have for each that is left to others: alone it gets most of them, and never all.

So with the dynamic thresholds of shared buffers (Choudhury and Hahne, 1998). The first one any namespace may have.
"""

MOST_BYTES = 256 << 20
"""Bytes of all headers; of one namespace a quarter of it."""


@dataclass(eq=False)
class _Space:
    """The pages of one namespace, and the bytes of their headers."""

    pages: dict[bytes, list[OwnedPage]] = field(default_factory=dict)
    header_bytes: int = 0
    refused: int = 0


@dataclass(eq=False)
class OwnedPages:
    """The pages that one store knows of. Thread-safe."""

    ledger: Ledger = field(default_factory=lambda: Ledger(TIER))
    _owners: set[PageOwner] = field(default_factory=set)
    _spaces: dict[bytes, _Space] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _lock: Lock = field(default_factory=Lock)

    def begin(self, namespace: bytes, device: str) -> PageOwner:
        """A new owner, which has registered nothing yet."""
        owner = PageOwner(namespace, device)
        with self._lock:
            self._owners.add(owner)
        return owner

    def register(self, owner: PageOwner, slabs: Sequence[OfferedSlab], pages: Sequence[OfferedPage]) -> None:
        """Takes what an owner offers, all of it or nothing; what it took back meanwhile, or has said before, is left.

        InvalidArgument for what cannot be, Overloaded if there would be too much.
        """
        kept = False
        opened: dict[int, OwnedSlab] = {}
        try:
            for slab in slabs:
                if slab.number in owner.slabs or slab.number in opened:
                    raise InvalidArgument(f"slabs: number {slab.number} is registered already")
                if len(opened) >= MOST_SLABS:
                    raise _too_many_slabs()
                opened[slab.number] = opened_slab(slab, next(self._numbers), owner.device)
            new = [page_of(owner, {**owner.slabs, **opened}, page) for page in pages]
            with self._lock:
                self._check_room(owner, opened, new)
                owner.slabs.update(opened)
                kept = True
                for page in new:
                    self._add(page)
        finally:
            if not kept:
                with self._lock:
                    self._spaces.setdefault(owner.namespace, _Space()).refused += len(pages)
                for one in opened.values():
                    one.close()

    def withdraw(self, owner: PageOwner, generations: Collection[int]) -> None:
        """Forgets pages that their owner took back."""
        with self._lock:
            for generation in generations:
                page = owner.pages.get(generation)
                if page is not None:
                    self._drop(page, "withdrawn")

    def end(self, owner: PageOwner) -> None:
        """The owner is gone, and all its pages with it."""
        with self._lock:
            self._owners.discard(owner)
            for page in list(owner.pages.values()):
                self._drop(page, "lost")
            while owner.slabs:
                owner.slabs.popitem()[1].close()

    def told(self, owner: PageOwner) -> list[int]:
        """Generations of its pages that others removed since this was last asked."""
        with self._lock:
            removed, owner.removed = owner.removed, []
            return removed

    def leading(self, namespace: bytes, chain: Chain, device: str, besides: PageOwner | None) -> list[OwnedPage]:
        """The pages of the first blocks of `chain` on this device, without a gap; not those of the owner `besides`."""
        found: list[OwnedPage] = []
        with self._lock:
            space = self._spaces.get(namespace)
            if space is None:
                return found
            for key in chain.keys:
                page = next(
                    (
                        page
                        for page in space.pages.get(key, ())
                        if page.fingerprint == chain.fingerprint
                        and page.slab.device == device
                        and page.owner is not besides
                        and page.current
                    ),
                    None,
                )
                if page is None:
                    break
                found.append(page)
            return found

    def show(self, pages: Sequence[OwnedPage], most: int) -> list[ShownSlab]:
        """What the slabs of these pages are opened with, up to `most` of them and to the first that is gone.

        OSError if this process may open no more descriptors.
        """
        shown: dict[int, ShownSlab] = {}
        try:
            with self._lock:
                for page in pages:
                    slab = page.slab
                    if slab.number in shown:
                        continue
                    # of an owner that is gone the descriptors may be other files' by now
                    if len(shown) == most or page.gone:
                        break
                    shown[slab.number] = ShownSlab(slab.number, slab.nbytes, slab.token, slab.copies())
        except OSError:
            for one in shown.values():
                for descriptor in one.descriptors:
                    os.close(descriptor)
            raise
        return list(shown.values())

    def alive(self, namespace: bytes, device: str) -> list[int]:
        """The numbers of all slabs of a namespace on this device."""
        with self._lock:
            return [
                slab.number
                for owner in self._owners
                if (owner.namespace, owner.device) == (namespace, device)
                for slab in owner.slabs.values()
            ]

    def missed(self, page: OwnedPage) -> str:
        """A reader could not have this page: it is shown no more. What was wrong, as the reason of a corrupt block."""
        with self._lock:
            reason = "checksum" if page.current else "stale"
            self._drop(page, "corrupt" if page.current else "withdrawn")
            return reason

    def remove(self, namespace: bytes, keys: Collection[bytes] | None, why: str) -> set[bytes]:
        """Removes the pages of these blocks, of all for None: their owners are told. The keys of those there were."""
        removed: set[bytes] = set()
        with self._lock:
            space = self._spaces.get(namespace)
            if space is None:
                return removed
            for key in list(space.pages) if keys is None else keys:
                for page in list(space.pages.get(key, ())):
                    removed.add(key)
                    page.owner.removed.append(page.generation)
                    self._drop(page, why)
        return removed

    def figures(self, namespace: bytes) -> list[Figure]:
        """What there is of a namespace: what is not current any more is not counted as being there."""
        with self._lock:
            space = self._spaces.get(namespace)
            if space is None:
                return []
            for page in [page for pages in space.pages.values() for page in pages if not page.current]:
                self._drop(page, "withdrawn")
            refused = space.refused
        return [*self.ledger.figures(namespace), Figure("pages_refused", (), refused)]

    def check(self) -> None:
        """Asserts what must hold between calls: counted pages equal to those there are, and room to what they take."""
        with self._lock:
            for namespace, space in self._spaces.items():
                pages = [page for pages in space.pages.values() for page in pages]
                owned = [page for one in self._owners if one.namespace == namespace for page in one.pages.values()]
                content = self.ledger.content(namespace)
                assert len(pages) == len(owned) == content.blocks and set(pages) == set(owned)
                assert sum(page.nbytes for page in pages) == content.nbytes
                assert sum(len(page.header) for page in pages) == space.header_bytes

    def _check_room(self, owner: PageOwner, slabs: Collection[object], pages: Sequence[OwnedPage]) -> None:
        if slabs:
            left = MOST_SLABS - len(slabs) - sum(len(one.slabs) for one in self._owners)
            taken = len(slabs) + sum(len(one.slabs) for one in self._owners if one.namespace == owner.namespace)
            if left < 0 or taken > max(1, FOR_EACH_LEFT * left):
                raise _too_many_slabs()
        more = sum(len(page.header) for page in pages)
        space = self._spaces.setdefault(owner.namespace, _Space())
        if space.header_bytes + more > MOST_BYTES // 4:
            raise Overloaded(f"pages: this namespace may have {MOST_BYTES // 4} bytes of headers registered, no more")
        if sum(one.header_bytes for one in self._spaces.values()) + more > MOST_BYTES:
            raise Overloaded(f"pages: {MOST_BYTES} bytes of headers are registered; try again when some are taken back")

    def _add(self, page: OwnedPage) -> None:
        owner, space = page.owner, self._spaces[page.owner.namespace]
        if owner not in self._owners or page.generation in owner.pages or not page.current:
            return
        others = space.pages.get(page.key, [])
        for old in [one for one in others if one.owner is owner or not one.current]:
            self._drop(old, "replaced" if old.owner is owner else "withdrawn")
        others = space.pages.setdefault(page.key, [])
        if any(one.sums != page.sums for one in others):
            space.refused += 1
            return
        others.append(page)
        owner.pages[page.generation] = page
        space.header_bytes += len(page.header)
        self.ledger.came(owner.namespace, page.nbytes)

    def _drop(self, page: OwnedPage, why: str) -> None:
        if page.gone:
            return
        page.gone = True
        namespace = page.owner.namespace
        space = self._spaces[namespace]
        del page.owner.pages[page.generation]
        left = space.pages[page.key]
        left.remove(page)
        if not left:
            del space.pages[page.key]
        space.header_bytes -= len(page.header)
        self.ledger.went(namespace, page.nbytes, why)


def _too_many_slabs() -> Overloaded:
    return Overloaded(
        f"slabs: of the {MOST_SLABS} of this store a namespace may have {FOR_EACH_LEFT} for each that it leaves to "
        "others; take larger ones, tiers.gpu.slab"
    )
