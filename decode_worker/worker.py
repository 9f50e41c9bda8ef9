"""What the requests of a decode worker share, and its counting."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachestore.errors import CacheStoreError
from cachestore.metrics import Counters
from cachestore.service.client import RemoteStore
from decode_worker.asking import Asking
from decode_worker.choosing import PrefillWorkers
from decode_worker.generation import Generation
from decode_worker.request import LOCAL, Request, Token, Usage
from decode_worker.settings import DecodeSettings
from decode_worker.taking import Handoffs
from prefill_worker.call import Call
from prefill_worker.running import Running
from prefill_worker.stores import Stores
from prefill_worker.turns import Turns

if TYPE_CHECKING:
    from cachestore.engine.hf import HfEngine


@dataclass(eq=False)
class DecodeWorker:
    """Generates with an open engine and the open store at `address`, for whoever a call is for.

    `counters`: requests = requests_done + requests_failed + those under way. For those done, prompt_tokens =
    computed_tokens + reused_tokens over all tiers; recomputed_tokens were handed over and computed here again.
    """

    engine: "HfEngine"
    store: RemoteStore
    address: str
    settings: DecodeSettings
    counters: Counters = field(default_factory=Counters)
    running: Running = field(init=False)
    turns: Turns = field(default_factory=Turns)
    stores: Stores = field(init=False)
    handoffs: Handoffs = field(init=False)
    workers: PrefillWorkers = field(init=False)
    asking: Asking = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.running = Running(settings.max_concurrent, self.counters)
        self.stores = Stores(self.store, self.address, settings.codec)
        self.handoffs = Handoffs(self.stores, settings.store_timeout, self.counters)
        self.workers = PrefillWorkers(self.store, settings.refresh, settings.rest)
        self.asking = Asking(self.engine, self.workers, settings, self.counters, self.handoffs.give_up)

    def generate(self, request: Request, call: Call) -> Generator[Token | Usage, None, None]:
        """The tokens as they are made, then the usage, by which time the new blocks are stored.

        InvalidArgument for what cannot be meant; otherwise only what `call` raises between steps. No failure of
        another part reaches the caller.
        """
        self.counters.add("requests")
        try:
            request.check(self.engine)
            with self.stores.of(call.caller) as store:
                generation = Generation(self, store, request, call)
                yield from generation.run()
                usage = generation.usage()
        except CacheStoreError as error:
            self.counters.add("requests_failed", reason=error.reason)
            raise
        except GeneratorExit:
            self.counters.add("requests_failed", reason="left")
            raise
        except BaseException:
            self.counters.add("requests_failed", reason="internal")
            raise
        self._count(usage)
        yield usage

    def close(self) -> None:
        """Ends the connections to others. Closing twice is allowed."""
        self.workers.close()
        self.stores.close()

    def _count(self, usage: Usage) -> None:
        add = self.counters.add
        add("requests_done", finish=usage.finish)
        add("prefilled", by="local" if usage.prefilled_by == LOCAL else "worker")
        add("prompt_tokens", usage.prompt_tokens)
        add("generated_tokens", usage.generated_tokens)
        add("computed_tokens", usage.reuse.computed)
        for tier, tokens in usage.reuse.reused.items():
            add("reused_tokens", tokens, tier=tier)
