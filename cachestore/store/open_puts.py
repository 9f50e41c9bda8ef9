"""The open puts of one namespace, from their reservation to their end, and the durable bytes promised to them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cachestore.errors import CacheStoreError, Unavailable
from cachestore.store.base import Durability
from cachestore.store.promises import promise

if TYPE_CHECKING:
    from cachestore.store.put import LocalPut
    from cachestore.store.tiered import TieredStore


@dataclass(eq=False)
class OpenPuts(Mapping[bytes, "LocalPut"]):
    """The puts by id."""

    tiered: TieredStore
    namespace: bytes
    _open: dict[bytes, LocalPut] = field(default_factory=dict)

    def __getitem__(self, put_id: bytes) -> LocalPut:
        return self._open[put_id]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, put: LocalPut) -> None:
        """Reserves the blocks of a put, which is open then; one that fails leaves nothing and counts as refused.

        So does one during which the store began to refuse: whoever ends the open puts then has ended all there are.
        """
        put.on_end = partial(self._ended, put, time.monotonic())
        try:
            if put.durability is Durability.DURABLE:
                put.promised = promise(self.tiered, self.namespace, put.plans, put.deadline)
            put.reserve()
            with self.tiered.index.changed:
                self.tiered.check_puts()
                self._open[put.id] = put
        except BaseException as error:
            answered = len(put.answers)
            put.abort()
            if isinstance(error, CacheStoreError):
                self.refused(len(put.plans) - answered, error.reason)
            raise
        self.keep_promise(put)

    def refused(self, blocks: int, reason: str) -> None:
        """Counts blocks of a put that was refused before they were answered for."""
        with self.tiered.index.changed:
            counters = self.tiered.counters(self.namespace)
            counters.add("put_blocks", blocks)
            counters.add("put_refused", blocks, reason=reason)

    def abort(self, put_id: bytes) -> int:
        """Gives up one put; how many blocks were dropped."""
        with self.tiered.index.changed:
            put = self._open.get(put_id)
        return put.give_up() if put is not None else 0

    def abort_all(self, why: str = "") -> None:
        """Gives up every put; with `why` its writer is told Unavailable for that, and may put elsewhere."""
        with self.tiered.index.changed:
            puts = list(self._open.values())
        for put in puts:
            put.give_up(Unavailable(why) if why else None)

    def expire(self) -> None:
        """Gives up the puts whose deadline has passed."""
        for put in list(self._open.values()):
            if not put.deadline.remaining():
                put.abort()

    def keep_promise(self, put: LocalPut) -> None:
        """Gives the durable bytes back that were promised to blocks which are held by now, or never will be."""
        if not put.promised:
            return
        with self.tiered.index.changed:
            wanted, promised = put.wanted, self.tiered.promised[self.namespace]
            for key in [key for key in put.promised if key not in wanted]:
                promised.remove(key, put.promised.pop(key))

    def _ended(self, put: LocalPut, began: float) -> None:
        self.keep_promise(put)
        if self._open.pop(put.id, None) is not None:
            self.tiered.counters(self.namespace).took("put", time.monotonic() - began)
