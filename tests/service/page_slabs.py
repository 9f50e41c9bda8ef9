"""Pages as a session registers them, whose every field a test may choose."""

from typing import Any

from cachestore.hashing import Chain, namespace_id
from cachestore.metrics import total
from cachestore.seal import Header
from cachestore.service import convert
from cachestore.service.shared.client import SharedSession
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, sealed_block
from cachestore.testing.tiers import KEYS
from cachestore.tiers.gpu_memory import GRANULE, HostMemory, share_readable
from cachestore.tiers.gpu_words import UNIT, words_bytes
from cachestore.wire import session_pb2 as wire
from cachestore.wire import store_pb2
from tests.service.sessions import SOON

OURS, THEIRS = namespace_id("default"), namespace_id("theirs")
CHAIN = Chain(b"f" * 32, tuple(KEYS))


class Slab:
    """Device memory of the test's own, with its generation words."""

    def __init__(self, nbytes: int = GRANULE) -> None:
        self.nbytes = nbytes
        self.allocation = HostMemory().allocate(nbytes)
        mapped, self.words = share_readable(words_bytes(nbytes))
        self.generations = memoryview(mapped).cast("Q")

    @property
    def descriptors(self) -> list[int]:
        return [self.words, self.allocation.descriptor]

    def message(self, number: int = 1) -> wire.PageSlab:
        return wire.PageSlab(number=number, bytes=self.nbytes, memory=True)

    def page(
        self, key: bytes, place: int = 0, generation: int = 7, namespace: bytes = OURS, seed: int = 0
    ) -> wire.Page:
        """A page of a block of 1000 bytes at this place, as it should be."""
        header = Header.parse(sealed_block(namespace, key, seed=seed))
        self.generations[place] = generation
        return wire.Page(slab=1, offset=place * UNIT, generation=generation, header=header.packed)


def register(session: SharedSession, *given: int, **message: Any) -> wire.RegisteredPages:
    request = wire.SessionRequest(register=wire.RegisterPages(**message))
    return session.ask(request, SOON, given).registered


def shown(session: SharedSession, keys: Chain = CHAIN) -> int:
    request = wire.SessionRequest(lookup=store_pb2.LookupRequest(chain=convert.chain_message(keys)))
    return session.ask(request, SOON).lookup.ready


def content(tiered: TieredStore) -> tuple[int, int]:
    """How many pages there are, and how many were refused."""
    figures = tiered.namespace("default").stats()
    check_sums(figures)
    return total(figures, "tier_blocks", tier="gpu"), total(figures, "pages_refused")
