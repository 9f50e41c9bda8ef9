"""A prefill by one worker after the other, or by none."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from cachestore.errors import CacheStoreError, DeadlineExceeded
from cachestore.hashing import Chain
from cachestore.metrics import Counters
from cachestore.service.auth.identity import Identity
from cachestore.service.members import Member
from decode_worker.choosing import Place, PrefillWorkers, place
from decode_worker.handed import Handed
from decode_worker.request import Request
from decode_worker.settings import DecodeSettings
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff


@dataclass(eq=False)
class Asking:
    """Has prompts of a model with this `vocabulary` computed; `release` ends a lease, for a caller in a store.

    `counters`: handoffs that began, and fallback_prefill by reason, which are those that ended in another way than with
    a handoff: the next worker was asked, or the prompt computed here.
    """

    workers: PrefillWorkers
    vocabulary: int
    release: Callable[[Identity, Handoff, str], None]
    settings: DecodeSettings
    counters: Counters

    def ask(self, request: Request, keys: Chain, call: Call) -> Handed | None:
        """A prefill of a prompt, whose full blocks are `keys`, that has begun; None if no worker began one in time.

        Aborted or DeadlineExceeded if `call` is over.
        """
        tried: set[Place] = set()
        while len(tried) < self.settings.prefill_attempts and not call.finished:
            call.check("choosing a prefill worker")
            member = self.workers.best(keys.fingerprint, tried)
            if member is None:
                break
            tried.add(place(member))
            try:
                handed = self._asked(member, request, keys, call)
            except CacheStoreError as error:
                self._failed(member, error)
                continue
            # the rest of the time is for computing it here, should this worker not begin
            within = min(self.settings.prefill_begin, call.deadline.remaining() / 2)
            with call.ending(handed.leave, handed.leave):
                if handed.begun(within):
                    self.counters.add("handoffs")
                    return handed
            late = not handed.heard
            handed.leave()
            if call.finished:
                break
            call.check("waiting for a prefill worker")
            if late:
                self._failed(member, DeadlineExceeded(f"{member.name} did not begin within {within:g} s"))
        return None

    def _asked(self, member: Member, request: Request, keys: Chain, call: Call) -> Handed:
        with ExitStack() as held:
            client = held.enter_context(self.workers.asking(member))
            prefilling = client.prefill(
                request.prompt, keys.fingerprint, timeout=max(call.deadline.remaining(), 1e-3),
                logprobs=request.logprobs, tenant=call.caller.tenant, silence=self.settings.silence,
            )  # fmt: skip
            handed = Handed(
                member.name, prefilling, len(request.prompt.tokens), len(keys), self.vocabulary, call.deadline,
                partial(self._failed, member), partial(self.release, call.caller), held.pop_all(),
            )  # fmt: skip
        handed.open()
        return handed

    def _failed(self, member: Member, error: CacheStoreError) -> None:
        self.workers.failed(member)
        self.counters.add("fallback_prefill", reason=error.reason)
