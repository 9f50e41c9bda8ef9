"""What an owner tells the store of its node: which blocks lie in which pages of its tier."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cachestore.errors import Overloaded
from cachestore.service.shared.messages import MOST_DESCRIPTORS
from cachestore.tiers.gpu_sharing import Export, Registered, SlabHandle
from cachestore.tiers.gpu_tier import GpuTier
from cachestore.wire import session_pb2 as wire

MESSAGE_BYTES = 1 << 20
"""Bytes of headers in one message, or one header more."""

log = logging.getLogger(__name__)

Say = Callable[[wire.RegisterPages, Sequence[int]], wire.RegisteredPages]
"""Sends one message with these descriptors over the session of a registration."""


@dataclass(eq=False)
class Registration:
    """What of a tier's pages of one namespace the store knows, by the session that there is now.

    Slabs once shared stay shared when a session ends: other workers have them open.
    """

    tier: GpuTier
    namespace: bytes
    _epoch: bytes = b""
    _slabs: set[int] = field(default_factory=set)
    _pages: set[int] = field(default_factory=set)
    _exports: list[Export] = field(default_factory=list)

    def begin(self) -> None:
        """There is another session: by that nothing is registered yet."""
        self._slabs, self._pages = set(), set()

    def sync(self, say: Say) -> int:
        """Tells the store what came and what went since this was last called; how many pages it knows now."""
        there = {entry.generation for entry in self.tier.catalogue(self.namespace)}
        try:
            # also where there is nothing to say: to hear what others removed
            self._told(say, wire.RegisterPages(withdrawn=self._pages - there))
            self._pages &= there
            new = [entry for entry in self.tier.catalogue(self.namespace) if entry.generation not in self._pages]
            if any(entry.slab not in self._slabs for entry in new):
                self._share(say)
            for entries in _batches([entry for entry in new if entry.slab in self._slabs]):
                self._told(say, wire.RegisterPages(pages=map(_page, entries)))
                self._pages.update(entry.generation for entry in entries)
        except Overloaded as error:
            # the store counts what it refused; there is room again once others took pages back
            log.warning("pages are not registered: %s", error)
        return len(self._pages)

    def close(self) -> None:
        """The slabs may be given up."""
        for export in self._exports:
            export.close()

    def _share(self, say: Say) -> None:
        """Has the store know all slabs of the tier."""
        shared = {handle.number for export in self._exports for handle in export.handles}
        more = self.tier.export(self.namespace, besides=shared)
        if more.handles:
            self._exports.append(more)
        else:
            more.close()
        handles = [handle for export in self._exports for handle in export.handles if handle.number not in self._slabs]
        for start in range(0, len(handles), MOST_DESCRIPTORS // 2):
            some = handles[start : start + MOST_DESCRIPTORS // 2]
            descriptors = [descriptor for handle in some for descriptor in handle.descriptors]
            self._told(say, wire.RegisterPages(slabs=map(_slab, some)), descriptors)
            self._slabs.update(handle.number for handle in some)

    def _told(self, say: Say, message: wire.RegisterPages, descriptors: Sequence[int] = ()) -> None:
        message.epoch = self._epoch
        answer = say(message, descriptors)
        self._epoch = answer.epoch
        if answer.all_removed:
            self.tier.drop(self.namespace, None, "deleted")
            self._told(say, message, descriptors)
        elif answer.removed:
            removed = set(answer.removed)
            self.tier.drop(self.namespace, removed, "deleted")
            self._pages -= removed


def _batches(entries: Sequence[Registered]) -> Iterator[list[Registered]]:
    batch: list[Registered] = []
    nbytes = 0
    for entry in entries:
        batch.append(entry)
        nbytes += len(entry.header)
        if nbytes >= MESSAGE_BYTES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def _slab(handle: SlabHandle) -> wire.PageSlab:
    return wire.PageSlab(
        number=handle.number, bytes=handle.nbytes, token=handle.token, memory=len(handle.descriptors) == 2
    )


def _page(entry: Registered) -> wire.Page:
    return wire.Page(slab=entry.slab, offset=entry.offset, generation=entry.generation, header=entry.header)
