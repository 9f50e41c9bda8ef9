"""Pages of an engine that shows hashes and bytes but no tokens: one block of one plane each, under an opaque spec.

Nothing of it is shared with canonical blocks, nor between engines, versions or layouts: all that decides what the
bytes mean must be in the spec. Every call may wait for the store, up to `timeout` seconds; adapters whose engine must
not wait call from threads of their own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cachestore.block import Buffer, OpaqueSpec
from cachestore.deadline import Deadline
from cachestore.hashing import opaque_chain
from cachestore.store.base import BlockPlan, PutStatus, Store

HELD = frozenset({PutStatus.STORED, PutStatus.ALREADY_EXISTS, PutStatus.KEPT_FIRST, PutStatus.IN_PROGRESS})
"""What becomes of a page that the store has, or is just getting from somebody else."""


def layout_text(facts: Mapping[str, object]) -> str:
    """Everything that decides where which byte of a page is, as the one text that names it in a spec."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class OpaquePages:
    """The pages of one engine in `store`, each of `page_bytes` bytes; safe for use by several threads."""

    store: Store
    spec: OpaqueSpec
    page_bytes: int
    timeout: float = 10.0

    def leading(self, keys: Sequence[bytes]) -> int:
        """How many of the engine's keys, from the first on, can be read."""
        return self.store.lookup(opaque_chain(self.spec, keys), timeout=self.timeout).ready if keys else 0

    def read(self, keys: Sequence[bytes], into: Sequence[Buffer]) -> int:
        """Reads pages into buffers of `page_bytes` bytes; how many came, from the first on.

        What lies in a buffer of a page that did not come is undefined.
        """
        if not keys:
            return 0
        with self.store.read(opaque_chain(self.spec, keys), into=into, timeout=self.timeout) as reading:
            return reading.fill()

    def put(self, keys: Sequence[bytes], pages: Sequence[Buffer]) -> list[bool]:
        """Puts pages that the store lacks; for each whether the store has it now."""
        if not keys:
            return []
        chain, planes = opaque_chain(self.spec, keys), self.spec.planes(self.page_bytes)
        plans = BlockPlan.alike(chain.keys, 1, planes)
        deadline = Deadline.after(self.timeout)
        with self.store.put(chain.fingerprint, plans, timeout=deadline.remaining()) as put:
            put.write_whole(dict(enumerate(pages)))
            put.commit()
            return [answer.status in HELD for answer in put.answers]
