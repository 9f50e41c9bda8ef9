"""A block in device memory of a worker: what its owner says of it, and what the store keeps of that."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.seal import ENCRYPTED, CorruptBlock, Header
from cachestore.store.owned_slabs import OwnedSlab
from cachestore.tiers.gpu_words import UNIT, current


class OfferedPage(NamedTuple):
    """A block in one of its owner's slabs, as the owner tells of it."""

    slab: int
    offset: int
    generation: int
    header: bytes


@dataclass(eq=False, slots=True)
class OwnedPage:
    """One block on a device: `nbytes` is the size of its sealed form, `ends` milliseconds since 1970 or 0."""

    owner: "PageOwner"
    slab: OwnedSlab
    offset: int
    generation: int
    key: bytes
    fingerprint: bytes
    header: bytes
    nbytes: int
    ends: int
    sums: bytes
    gone: bool = False

    @property
    def current(self) -> bool:
        """Whether it is this block's still."""
        return (
            not self.gone
            and current(self.slab.words, self.offset, self.generation)
            and not 0 < self.ends <= time.time() * 1000
        )


@dataclass(eq=False)
class PageOwner:
    """What one session registered, its slabs by the owner's numbers and its pages by generation."""

    namespace: bytes
    device: str
    slabs: dict[int, OwnedSlab] = field(default_factory=dict)
    pages: dict[int, OwnedPage] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)
    """Generations of pages that others removed, which it has not been told of."""


Show: TypeAlias = Callable[[Chain], Sequence[OwnedPage]]
"""The pages at the front of a chain that a reader can open."""


def page_of(owner: PageOwner, slabs: dict[int, OwnedSlab], page: OfferedPage) -> OwnedPage:
    """A page as its owner tells of it, if it can be one."""
    slab = slabs.get(page.slab)
    if slab is None:
        raise InvalidArgument(f"pages: slab {page.slab} is none that this session registered")
    try:
        header = Header.parse(page.header)
    except CorruptBlock as corrupt:
        raise InvalidArgument(f"pages: a header does not hold ({corrupt.reason})") from None
    if header.namespace != owner.namespace:
        raise InvalidArgument("pages: a header names another namespace than this session's")
    nbytes = int(header.table["raw_bytes"].sum())
    if header.flags & ENCRYPTED or not page.generation:
        raise InvalidArgument("pages: a page has a generation, and its planes are in the clear")
    if page.offset % UNIT or page.offset + nbytes > slab.nbytes:
        raise InvalidArgument(f"pages: {nbytes} bytes at {page.offset} do not lie in a slab of {slab.nbytes}")
    return OwnedPage(
        owner, slab, page.offset, page.generation, header.key, header.fingerprint, header.packed,
        header.size + header.payload_bytes, header.expires, header.table["raw_checksum"].tobytes(),
    )  # fmt: skip
