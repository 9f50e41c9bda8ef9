"""A prompt in, blocks into the store, a handoff out."""

from collections.abc import Generator
from dataclasses import dataclass

from cachestore.engine.batch_request import BatchProgress, BatchToken
from cachestore.engine.stopping import Stop
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.store.base import Store
from prefill_worker.base import Worker, token
from prefill_worker.call import Call
from prefill_worker.handoff import Begun, Handoff, Progress, Told
from prefill_worker.prompt import CacheUse, Prompt, check_logprobs
from prefill_worker.settings import PrefillSettings
from prefill_worker.token import Reuse


@dataclass(eq=False)
class PrefillWorker(Worker):
    """Computes prompts, and stores their blocks while it does.

    Besides the loop's figures: handoffs, of which short_handoffs had fewer blocks than the prompt.
    """

    settings: PrefillSettings

    def prefill(self, prompt: Prompt, call: Call, logprobs: int | None = None) -> Generator[Told, None, None]:
        """What there is of the prompt is loaded, the rest computed and stored, and all of it leased.

        Whoever reads it before the end can wait for the blocks from `Begun` on. Blocks that the store cannot keep make
        the handoff shorter. Unavailable if the store cannot be asked at the end, and whatever ends the request
        in the loop; then nothing is left behind.
        """
        prompt.check(self.model)
        check_logprobs(logprobs)
        if prompt.cache is CacheUse.OFF:
            raise InvalidArgument("cache: a handoff goes through the store; with OFF, prefill where you decode")
        with self.stores.of(call.caller) as store:
            yield from self._computed(prompt, call, store, logprobs)
            yield from self._handed(prompt.chain(self.model.spec), call, store)

    def _computed(self, prompt: Prompt, call: Call, store: Store, logprobs: int | None) -> Generator[Told, None, None]:
        """Until all blocks that the store takes are published."""
        begun = False
        asked = self.asked(prompt, Stop(1), call, store=store, by_slot=True, logprobs=logprobs)
        with self.loop.submit(asked) as stream, call.ending(stream.abort, stream.abort):
            for answer in stream:
                if isinstance(answer, BatchProgress):
                    if answer.begun and not begun:
                        begun = True
                        yield Begun(self.stores.address)
                    yield Progress(answer.computed)
                elif isinstance(answer, BatchToken):
                    yield token(answer, Reuse(answer.computed_tokens, answer.reused))
        if not begun:
            # the store took no put: whoever asked may still read what it has
            yield Begun(self.stores.address)

    def _handed(self, keys: Chain, call: Call, store: Store) -> Generator[Told, None, None]:
        settings, handoff = self.settings, Handoff(b"", 0)
        if len(keys):
            call.check("handing over")
            lease = store.lease(keys, ttl=settings.lease, timeout=settings.store_timeout)
            handoff = Handoff(lease.id, lease.blocks)
        self.counters.add("handoffs")
        self.counters.add("short_handoffs", int(handoff.blocks < len(keys)))
        taken = False
        try:
            yield handoff
            # whoever asks for what follows has sent it
            taken = True
        finally:
            if not taken:
                self.release(call.caller, handoff)
