"""The session of one worker with its node's store, and the slabs of other workers that it was shown."""

import os
from collections.abc import Callable, Iterator, MutableMapping, Set

from cachestore.errors import Mismatch, Unavailable
from cachestore.service.shared.client import SharedSession
from cachestore.tiers.gpu_memory import DeviceMemory
from cachestore.tiers.gpu_sharing import AttachedSlab, SlabHandle, attach
from cachestore.wire import session_pb2 as wire


class PageSession(SharedSession):
    """A session that can open `memory`'s device. `slabs` are those that it was shown and has opened, by number.

    `known` has all that this process has open, so that many sessions open each once.
    """

    def __init__(
        self,
        path: str,
        memory: DeviceMemory,
        alive: Callable[[], bool],
        known: MutableMapping[int, AttachedSlab],
    ) -> None:
        super().__init__(path, {}, alive)
        self._memory = memory
        self._known_slabs = known
        self.slabs: dict[int, AttachedSlab] = {}
        self.alive: Set[int] | None = None
        """All slabs that there are, by number, if the store said so since this was last taken away."""
        self.closed_to_us = ""
        """Why a slab of the last answer could not be opened, if one could not."""

    def keep(self, answer: wire.SessionAnswer, descriptors: list[int]) -> None:
        if not answer.HasField("pages"):
            super().keep(answer, descriptors)
            return
        wanted = sum(2 if slab.memory else 1 for slab in answer.pages.slabs)
        if wanted != len(descriptors):
            raise ValueError("the answer's descriptors are not those that it says")
        self.alive = alive = set(answer.pages.alive)
        self.forget_all_but(alive)
        self.closed_to_us = ""
        given = iter(descriptors)
        for slab in answer.pages.slabs:
            self._open(slab, given)

    def forget_all_but(self, alive: Set[int]) -> None:
        """Gives up the other slabs; each is unmapped with the last copy that is under way."""
        self.slabs = {number: slab for number, slab in self.slabs.items() if number in alive}

    def _open(self, slab: wire.PageSlab, given: Iterator[int]) -> None:
        words, memory = next(given), next(given) if slab.memory else -1
        if slab.number in self.slabs:
            return
        known = self._known_slabs.get(slab.number)
        if known is not None:
            self.slabs[slab.number] = known
            return
        words, memory = os.dup(words), os.dup(memory) if memory >= 0 else -1
        handle = SlabHandle(self.namespace, slab.number, slab.bytes, self._memory.name, slab.token, memory, words)
        try:
            self.slabs[slab.number] = self._known_slabs[slab.number] = attach(handle, self._memory)
        except (Mismatch, Unavailable) as error:
            self.closed_to_us = str(error)
