"""A prompt in, blocks into the store, a handoff out. One prompt is computed at a time."""

import secrets
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachestore.engine.generation import FALLBACK, load_prefix
from cachestore.engine.sampling import Sampler
from cachestore.engine.sequence import Sequence
from cachestore.engine.writer import BlockWriter, store_tail
from cachestore.errors import CacheStoreError, InvalidArgument, Unavailable
from cachestore.hashing import Chain, tail_key
from cachestore.metrics import Counters
from cachestore.service.auth.identity import LOCAL, Identity
from cachestore.store.base import Lease, Store
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff, Reuse
from prefill_worker.prompt import CacheUse, Prompt
from prefill_worker.running import Running
from prefill_worker.settings import PrefillSettings
from prefill_worker.stores import Stores
from prefill_worker.turns import Turns

if TYPE_CHECKING:
    from cachestore.engine.hf import HfEngine

SALT_BYTES = 16


@dataclass(eq=False)
class PrefillWorker:
    """Prefills with an open engine into an open store, which clients reach at `address`, for whoever a call is for.

    `counters`: requests = requests_done + requests_failed + those under way, and for those done prompt_tokens =
    computed_tokens + reused_tokens over all tiers.
    """

    engine: "HfEngine"
    store: Store
    address: str
    settings: PrefillSettings
    running: Running = field(init=False)
    stores: Stores = field(init=False)
    counters: Counters = field(default_factory=Counters)
    _turns: Turns = field(default_factory=Turns)

    def __post_init__(self) -> None:
        self.running = Running(self.settings.max_concurrent, self.counters)
        self.stores = Stores(self.store, self.address, self.settings.codec)

    def close(self) -> None:
        """Ends the connections for tenants. Closing twice is allowed."""
        self.stores.close()

    def prefill(self, prompt: Prompt, call: Call) -> Handoff:
        """Loads what the store has of the prompt, computes and stores the rest, and leases all of it.

        Unavailable if the store does not take part, and what `call` raises between chunks; then nothing is left
        behind. Blocks that the store cannot keep make the handoff shorter.
        """
        self.counters.add("requests")
        try:
            prompt.check(self.engine)
            if prompt.cache is CacheUse.OFF:
                raise InvalidArgument("cache: a handoff goes through the store; with OFF, prefill where you decode")
            with self._turns.turn(call), self.stores.of(call.caller) as store:
                handoff = self._prefill(prompt, call, store)
        except CacheStoreError as error:
            self.counters.add("requests_failed", reason=error.reason)
            raise
        except BaseException:
            self.counters.add("requests_failed", reason="internal")
            raise
        self._count(handoff, len(prompt.tokens))
        return handoff

    def give_up(self, handoff: Handoff, caller: Identity = LOCAL) -> None:
        """Frees a handoff for `caller` that nobody will read."""
        with self.stores.of(caller) as store:
            if len(handoff.chain):
                self._release(store, handoff.leased())
            self._delete(store, handoff.tail)

    def _prefill(self, prompt: Prompt, call: Call, store: Store) -> Handoff:
        sequence, tokens, size = self.engine.sequence(), prompt.tokens, self.engine.spec.block_tokens
        keys = prompt.chain(self.engine, tokens)
        # a key that is being written is waited for rather than computed twice
        wait = min(self.settings.wait, call.deadline.remaining())
        timeout = min(wait + self.settings.store_timeout, call.deadline.remaining())
        reused = load_prefix(sequence, store, keys, wait=wait, timeout=max(timeout, 1e-3))
        if FALLBACK in reused:
            raise Unavailable(f"the store at {self.address} could not be read")
        computed = len(tokens) - sequence.position
        call.check("prefilling")
        first = sequence.position // size
        with BlockWriter(sequence, store, keys, first, max(call.deadline.remaining(), 1e-3)) as writer:

            def check() -> None:
                call.check("prefilling")
                if writer.error is not None:
                    raise Unavailable(f"the store took no blocks: {writer.error}") from writer.error

            logits = sequence.prefill(tokens, on_blocks=writer.on_blocks, check=check)
            check()
            writer.finish()
            check()
        handed = self._tail(store, sequence, keys, tokens[len(keys) * size :])
        lease = self._lease(store, handed, keys, call)
        tail = len(tokens) % size if lease.blocks > len(keys) else 0
        position = min(lease.blocks, len(keys)) * size + tail
        token = Sampler(prompt.sampling).pick(logits)
        kept = handed.first(lease.blocks)
        return Handoff(kept, tail, lease.id, self.address, position, token, Reuse(computed, reused))

    def _tail(self, store: Store, sequence: Sequence, keys: Chain, rest: Tokens[int]) -> Chain:
        """The chain with the short block that holds `rest`, if there is one and the store kept it."""
        if not rest:
            return keys
        key = tail_key(self.engine.spec, keys, rest, secrets.token_bytes(SALT_BYTES))
        settings = self.settings
        after = keys.keys[-1] if len(keys) else None
        kept = store_tail(sequence, store, key, ttl=settings.tail_ttl, after=after, timeout=settings.store_timeout)
        return keys.with_tail(key) if kept else keys

    def _lease(self, store: Store, handed: Chain, keys: Chain, call: Call) -> Lease:
        """A lease on what of `handed` is there. Whatever fails, no tail and no lease is left."""
        tail = handed.behind(len(keys))
        try:
            call.check("handing over")
            lease = store.lease(handed, ttl=self.settings.lease, timeout=self.settings.store_timeout)
        except CacheStoreError:
            self._delete(store, tail)
            raise
        if lease.blocks < len(handed):
            self._delete(store, tail)
        if not lease.blocks:
            self._release(store, lease)
        return lease

    def _release(self, store: Store, lease: Lease) -> None:
        self._tried(lambda: store.release(lease, timeout=self.settings.store_timeout))

    def _delete(self, store: Store, tail: Chain) -> None:
        if len(tail):
            self._tried(lambda: store.delete(tail, timeout=self.settings.store_timeout))

    def _tried(self, step: Callable[[], object]) -> None:
        try:
            step()
        except CacheStoreError as error:
            # leases and tails end by themselves, only later
            self.counters.add("left_to_expire", reason=error.reason)

    def _count(self, handoff: Handoff, tokens: int) -> None:
        self.counters.add("requests_done")
        self.counters.add("prompt_tokens", tokens)
        self.counters.add("computed_tokens", handoff.reuse.computed)
        for tier, count in handoff.reuse.reused.items():
            self.counters.add("reused_tokens", count, tier=tier)
        if handoff.position < tokens:
            self.counters.add("short_handoffs")
            self.counters.add("short_handoff_tokens", tokens - handoff.position)
