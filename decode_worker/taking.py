"""Reading the blocks of a handoff into a sequence, and leaving nothing of it behind in the store."""

from collections.abc import Callable
from dataclasses import dataclass

from cachestore.engine.sequence import Sequence
from cachestore.errors import CacheStoreError
from cachestore.metrics import Counters
from cachestore.service.auth.identity import Identity
from cachestore.store.base import Purpose, Store
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff
from prefill_worker.stores import Stores

MISSING = "missing"


@dataclass(eq=False)
class Handoffs:
    """Handoffs lie in the store of the prefill worker's node, which may be another than this worker's own."""

    stores: Stores
    timeout: float
    counters: Counters

    def load(self, handoff: Handoff, sequence: Sequence, call: Call) -> None:
        """Loads the blocks into the empty `sequence`, up to the first that cannot be had; the lease is used up.

        Why blocks are missing is counted. Aborted or DeadlineExceeded between blocks if `call` is over.
        """
        reason = MISSING
        try:
            if len(handoff.chain):
                self._read(handoff, sequence, call)
        except CacheStoreError as error:
            call.check("loading a handoff")
            reason = error.reason
        self.counters.add("loaded_tokens", sequence.position)
        if sequence.position < handoff.position:
            self.counters.add("fallback_handoff", reason=reason)

    def give_up(self, handoff: Handoff, caller: Identity) -> None:
        """Frees a handoff for `caller` that nobody reads."""
        if len(handoff.chain):
            self._tried(handoff, caller, lambda store: store.release(handoff.leased(), timeout=self.timeout))
        self.forget_tail(handoff, caller)

    def forget_tail(self, handoff: Handoff, caller: Identity) -> None:
        """Deletes the short block: nobody else can ever ask for it."""
        if len(handoff.tail):
            self._tried(handoff, caller, lambda store: store.delete(handoff.tail, timeout=self.timeout))

    def _read(self, handoff: Handoff, sequence: Sequence, call: Call) -> None:
        lease = handoff.leased()
        timeout = max(min(self.timeout, call.deadline.remaining()), 1e-3)
        with self.stores.of(call.caller, handoff.store) as store:
            try:
                reading = store.read(handoff.chain, lease=lease, purpose=Purpose.HANDOFF, timeout=timeout)
            except CacheStoreError:
                self._tried(handoff, call.caller, lambda store: store.release(lease, timeout=self.timeout))
                raise
            with reading:
                for block, _ in reading:
                    sequence.load(block)
                    call.check("loading a handoff")

    def _tried(self, handoff: Handoff, caller: Identity, step: Callable[[Store], object]) -> None:
        try:
            with self.stores.of(caller, handoff.store) as store:
                step(store)
        except CacheStoreError as error:
            # leases and tails end by themselves, only later
            self.counters.add("left_to_expire", reason=error.reason)
