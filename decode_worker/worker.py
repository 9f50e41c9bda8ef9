"""A prompt in, tokens out: the prompt's KV from wherever it is had soonest, the rest computed here."""

import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from cachestore.engine.batch_request import ENGINE, BatchRequest, BatchToken, BatchUsage
from cachestore.engine.batch_stream import BatchStream
from cachestore.engine.stopping import Stop
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.service.client import RemoteStore
from cachestore.store.base import Purpose, Store
from decode_worker.asking import Asking
from decode_worker.choosing import PrefillWorkers
from decode_worker.handed import Handed
from decode_worker.request import LOCAL, Request, Usage
from decode_worker.settings import DecodeSettings
from prefill_worker.base import Worker, token
from prefill_worker.call import Call
from prefill_worker.prompt import CacheUse
from prefill_worker.token import Reuse, Token


@dataclass(eq=False)
class DecodeWorker(Worker):
    """Generates, with prompts that prefill workers compute, or this one.

    Besides the loop's figures and those of `Asking`: prefilled by `local` or `worker`, of requests that ended well, and
    fallback_store by what could not be done with it: the request went on without.
    """

    settings: DecodeSettings
    known: RemoteStore
    """The store whose cluster map names the prefill workers."""
    workers: PrefillWorkers = field(init=False)
    asking: Asking = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = self.settings
        self.workers = PrefillWorkers(self.known, settings.refresh, settings.rest)
        self.asking = Asking(self.workers, self.model.vocabulary, self.release, settings, self.counters)

    def close(self) -> None:
        self.workers.close()
        super().close()

    def generate(self, request: Request, call: Call) -> Generator[Token | Usage, None, None]:
        """The tokens as they are made, then the usage, by which time the new blocks are stored.

        InvalidArgument for what cannot be meant, and whatever ends the request in the loop. No failure of another part
        reaches the caller.
        """
        arrived = time.monotonic()
        request.check(self.model)
        with ExitStack() as held:
            store = self._store(request, call, held)
            handed = self._handed(request, call, store, held)
            if handed is None:
                asked = self._asked(request, call, store=store)
            else:
                # its blocks are waited for until they come, or nobody writes them any more
                asked = self._asked(
                    request, call, store=handed.read_from, first=handed.first, purpose=Purpose.HANDOFF,
                    wait=call.deadline.remaining(),
                )  # fmt: skip
            stream = held.enter_context(self.loop.submit(asked))
            held.enter_context(call.ending(stream.abort, stream.finish))
            yield from self._answers(stream, handed, arrived)

    def _store(self, request: Request, call: Call, held: ExitStack) -> Store | None:
        """The store of whoever asks, open while `held` is; None where it is not to be used."""
        if request.prompt.cache is CacheUse.OFF:
            return None
        if not self.workers.reachable():
            # one that does not answer is not worth waiting for
            self.counters.add("fallback_store", doing="map")
            return None
        return held.enter_context(self.stores.of(call.caller))

    def _handed(self, request: Request, call: Call, store: Store | None, held: ExitStack) -> Handed | None:
        """A prefill that another worker has begun, followed while `held` is; None for one that is to be done here."""
        if store is None or len(request.prompt.tokens) <= self.settings.local_prefill_tokens:
            return None
        keys = request.prompt.chain(self.model.spec)
        uncached = len(request.prompt.tokens) - self._cached(keys, call, store) * self.model.spec.block_tokens
        if uncached <= self.settings.local_prefill_tokens:
            return None
        handed = self.asking.ask(request, keys, call)
        if handed is None:
            return None
        held.callback(handed.leave)
        held.enter_context(call.ending(handed.leave, handed.leave))
        try:
            handed.read_from = held.enter_context(self.stores.of(call.caller, handed.store))
        except CacheStoreError:
            self.counters.add("fallback_store", doing="handoff")
            handed.leave()
            return None
        return handed

    def _cached(self, keys: Chain, call: Call, store: Store) -> int:
        """How many leading blocks need not be computed, since they are in pages here or in the store."""
        blocks = self.loop.cached(call.caller.namespace, keys.keys)
        timeout = max(min(self.settings.store_timeout, call.deadline.remaining()), 1e-3)
        if blocks == len(keys):
            return blocks
        try:
            return blocks + store.lookup(keys.behind(blocks), timeout=timeout).ready
        except CacheStoreError as error:
            self.counters.add("fallback_lookup", reason=error.reason)
            return blocks

    def _asked(self, request: Request, call: Call, **more: object) -> BatchRequest:
        stop = Stop(request.max_tokens, request.stop_tokens | self.model.eos_tokens)
        return self.asked(request.prompt, stop, call, logprobs=request.logprobs, **more)

    def _answers(
        self, stream: BatchStream, handed: Handed | None, arrived: float
    ) -> Generator[Token | Usage, None, None]:
        """What the loop makes, and how it went."""
        origin, first_ms = Origin(LOCAL, Reuse(0)), 0.0
        for made in stream:
            if isinstance(made, BatchToken):
                if not made.index:
                    origin, first_ms = _origin(made, handed), (time.monotonic() - arrived) * 1000
                elif handed is not None:
                    # behind the first token stands what was computed with the prompt's KV
                    handed.read()
                yield token(made, origin.reuse)
            elif isinstance(made, BatchUsage):
                self.counters.add("prefilled", by="local" if origin.by == LOCAL else "worker")
                yield _usage(made, origin, first_ms)


class Origin(NamedTuple):
    """Who prefilled a prompt, and where its KV came from there."""

    by: str
    reuse: Reuse


def _origin(first: BatchToken, handed: Handed | None) -> Origin:
    if handed is not None and handed.token is not None and handed.token.reuse is not None:
        return Origin(handed.by, handed.token.reuse)
    return Origin(LOCAL, Reuse(first.computed_tokens, first.reused))


def _usage(made: BatchUsage, origin: Origin, first_ms: float) -> Usage:
    loaded = sum(tokens for tier, tokens in made.reused.items() if tier != ENGINE) if origin.by != LOCAL else 0
    return Usage(
        made.prompt_tokens, made.generated_tokens, origin.reuse, made.finish.value, origin.by, first_ms, loaded
    )
