"""Reading the blocks of a handoff into a sequence, and leaving nothing of it behind in the store."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from cachestore.engine.sequence import Sequence
from cachestore.errors import CacheStoreError
from cachestore.metrics import Counters
from cachestore.service.client import RemoteStore
from cachestore.store.base import Purpose
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff

MISSING = "missing"


@dataclass(eq=False)
class Handoffs:
    """Handoffs lie in the store of the prefill worker's node: `own` if that is at `address`, else one connected to."""

    own: RemoteStore
    address: str
    timeout: float
    counters: Counters
    _others: dict[str, RemoteStore] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

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

    def give_up(self, handoff: Handoff) -> None:
        """Frees a handoff that nobody reads."""
        if len(handoff.chain):
            store = self._store(handoff.store)
            self._tried(lambda: store.release(handoff.leased(), timeout=self.timeout))
        self.forget_tail(handoff)

    def forget_tail(self, handoff: Handoff) -> None:
        """Deletes the short block: nobody else can ever ask for it."""
        if len(handoff.tail):
            store = self._store(handoff.store)
            self._tried(lambda: store.delete(handoff.tail, timeout=self.timeout))

    def close(self) -> None:
        """Ends the connections made here. Closing twice is allowed."""
        with self._lock:
            others, self._others = list(self._others.values()), {}
        for store in others:
            store.close()

    def _read(self, handoff: Handoff, sequence: Sequence, call: Call) -> None:
        store, lease = self._store(handoff.store), handoff.leased()
        timeout = max(min(self.timeout, call.deadline.remaining()), 1e-3)
        try:
            reading = store.read(handoff.chain, lease=lease, purpose=Purpose.HANDOFF, timeout=timeout)
        except CacheStoreError:
            self._tried(lambda: store.release(lease, timeout=self.timeout))
            raise
        with reading:
            for block, _ in reading:
                sequence.load(block)
                call.check("loading a handoff")

    def _store(self, address: str) -> RemoteStore:
        if address == self.address:
            return self.own
        with self._lock:
            if address not in self._others:
                self._others[address] = RemoteStore(address)
                self._others[address].open()
            return self._others[address]

    def _tried(self, step: Callable[[], object]) -> None:
        try:
            step()
        except CacheStoreError as error:
            # leases and tails end by themselves, only later
            self.counters.add("left_to_expire", reason=error.reason)
