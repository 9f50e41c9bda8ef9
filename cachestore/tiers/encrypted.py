"""A tier whose blocks leave this process encrypted, around one that knows nothing of it.

Everything above sees the checksummed form; the medium, and whoever else can reach it, sees ciphertext. A block that
does not open is corrupt, for the reason that `cachestore.sealing` gives.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.seal import CorruptBlock
from cachestore.sealing import Sealer
from cachestore.tiers.base import ColdTier, Demoting, Departed, Found, Keeping, Listing, Protecting, Renewing, Usage
from cachestore.tiers.batches import batches
from cachestore.tiers.ledger import Ledger

BATCH_BYTES = 32 << 20
"""Blocks encrypted at once: what a put needs beside the blocks themselves."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class EncryptedTier:
    """`inner`, holding the encrypted form. Its figures are those of what it holds, tags included."""

    inner: ColdTier
    sealer: Sealer

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def healthy(self) -> bool:
        return self.inner.healthy

    @property
    def durable(self) -> bool:
        return self.inner.durable

    @property
    def hot(self) -> bool:
        return self.inner.hot

    @property
    def ledger(self) -> Ledger | None:
        return self.inner.ledger

    @property
    def below(self) -> ColdTier | None:
        """Whom `inner` offers what must leave, encrypted as it is."""
        return self.inner.below if isinstance(self.inner, Demoting) else None

    def open(self, departed: Departed) -> None:
        self.inner.open(departed)

    def close(self) -> None:
        self.inner.close()

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        return self.inner.leading(namespace, keys, deadline)

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        return self.inner.present(namespace, keys, deadline)

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        found = self.inner.get_many(namespace, keys, deadline)
        return [self._opened(namespace, key, data, deadline) for key, data in zip(keys, found, strict=True)]

    def protect(self, namespace: bytes, keys: Sequence[bytes]) -> list[bool]:
        return self.inner.protect(namespace, keys) if isinstance(self.inner, Protecting) else [False] * len(keys)

    def unprotect(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        if isinstance(self.inner, Protecting):
            self.inner.unprotect(namespace, keys)

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        kept: list[bool] = []
        for batch in batches(blocks, BATCH_BYTES):
            sealed = [self._sealed(block, deadline) for _, block in batch]
            good = [(key, data) for (key, _), data in zip(batch, sealed, strict=True) if data is not None]
            answers = iter(self.inner.put_many(namespace, good, ttl, deadline, durable=durable) if good else [])
            kept += [data is not None and next(answers) for data in sealed]
        return kept

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        return self.inner.delete_many(namespace, keys, deadline, why=why)

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        return self.inner.clear(namespace, deadline)

    def keys(self, namespace: bytes) -> Sequence[bytes]:
        return self.inner.keys(namespace) if isinstance(self.inner, Listing) else ()

    def kept(self, namespace: bytes, keys: Sequence[bytes], ends: float = 0.0) -> list[bool]:
        return self.inner.kept(namespace, keys, ends) if isinstance(self.inner, Keeping) else [False] * len(keys)

    def durable_bytes(self, namespace: bytes) -> int:
        return self.inner.durable_bytes(namespace) if isinstance(self.inner, Keeping) else 0

    def recount(self, namespace: bytes, deadline: Deadline) -> None:
        if isinstance(self.inner, Keeping):
            self.inner.recount(namespace, deadline)

    def look(self, deadline: Deadline) -> None:
        if isinstance(self.inner, Keeping):
            self.inner.look(deadline)

    @property
    def renewed_within(self) -> float:
        return self.inner.renewed_within if isinstance(self.inner, Renewing) else math.inf

    def renew(self, namespace: bytes, blocks: Sequence[tuple[bytes, float]], deadline: Deadline) -> None:
        if isinstance(self.inner, Renewing):
            self.inner.renew(namespace, blocks, deadline)

    def usage(self, deadline: Deadline | None = None) -> Usage:
        return self.inner.usage(deadline)

    def _opened(self, namespace: bytes, key: bytes, data: Found, deadline: Deadline) -> Found:
        if data is None or isinstance(data, CorruptBlock):
            return data
        if not deadline.remaining():
            return None
        try:
            return self.sealer.open(data, namespace, key)
        except CorruptBlock as corrupt:
            return corrupt

    def _sealed(self, block: Buffer, deadline: Deadline) -> Buffer | None:
        if not deadline.remaining():
            return None
        try:
            return self.sealer.seal(block)
        except CorruptBlock as corrupt:
            log.error("%s tier: a block on its way down is corrupt (%s)", self.name, corrupt.reason)
            return None
