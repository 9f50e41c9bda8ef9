"""A handoff from one prefill worker after the other, or from none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cachestore.errors import CacheStoreError, Mismatch
from cachestore.hashing import Chain, fingerprint
from cachestore.metrics import Counters
from cachestore.service.auth.identity import Identity
from decode_worker.choosing import Place, PrefillWorkers, place
from decode_worker.settings import DecodeSettings
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff
from prefill_worker.prompt import Prompt

if TYPE_CHECKING:
    from cachestore.engine.hf import HfEngine


class Handed(NamedTuple):
    """A handoff and the name of the worker that made it."""

    handoff: Handoff
    by: str


@dataclass(eq=False)
class Asking:
    """Asks prefill workers on behalf of `engine`; `refuse` frees a handoff that does not fit."""

    engine: "HfEngine"
    workers: PrefillWorkers
    settings: DecodeSettings
    counters: Counters
    refuse: Callable[[Handoff, Identity], None]

    def ask(self, prompt: Prompt, expected: Chain, call: Call) -> Handed | None:
        """A handoff of `prompt`, whose full blocks are `expected`; None if no worker gave one in time.

        A failure is counted, and the next worker is asked. Aborted or DeadlineExceeded if `call` is over.
        """
        tried: set[Place] = set()
        spec = fingerprint(self.engine.spec)
        while len(tried) < self.settings.prefill_attempts:
            call.check("choosing a prefill worker")
            member = self.workers.best(spec, tried)
            if member is None:
                break
            tried.add(place(member))
            # the rest of the time is for computing it here, should this worker not answer
            timeout = max(min(self.settings.prefill_timeout, call.deadline.remaining() / 2), 1e-3)
            try:
                with self.workers.asking(member) as client:
                    handoff = client.prefill(prompt, spec, timeout=timeout, call=call)
                self._check(handoff, expected, prompt, call.caller)
            except CacheStoreError as error:
                call.check("waiting for a prefill worker")
                self.workers.failed(member)
                self.counters.add("fallback_prefill", reason=error.reason)
                continue
            self.counters.add("handoffs")
            return Handed(handoff, member.name)
        return None

    def _check(self, handoff: Handoff, expected: Chain, prompt: Prompt, caller: Identity) -> None:
        spec = self.engine.spec
        try:
            handoff.check(expected, len(prompt.tokens), spec.block_tokens, self.engine.vocabulary)
        except Mismatch:
            self.refuse(handoff, caller)
            raise
