"""vLLM: the scheduler's half of the connector. It decides what is loaded and saved, and never waits.

A request's keys grow with its tokens. What the store has of them is looked up in a mirror of its index, or else by a
thread while vLLM is told to ask again. Blocks are saved once they are full, those of answers too.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from vllm.v1.request import RequestStatus

from cachestore.block import BlockSpec
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.integrations.complaints import Complaints
from cachestore.integrations.keys import PromptKeys
from cachestore.integrations.vllm_events import KVEvents
from cachestore.integrations.vllm_naming import Adapters, prompt_keys
from cachestore.integrations.vllm_settings import ConnectorSettings
from cachestore.integrations.vllm_work import Done, Load, Save, Work
from cachestore.metrics import Counters
from cachestore.service.connection import Connection
from cachestore.service.events.mirror import Mirror
from cachestore.store.base import Store

_log = logging.getLogger(__name__)
HANDOFF = "cachestore_blocks"
"""In `kv_transfer_params`: how many leading blocks the prefilling engine saves."""
WITHOUT_KV = (
    RequestStatus.WAITING,
    RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR,
    RequestStatus.PREEMPTED,
)


@dataclass(eq=False)
class Tracked:
    """One request: its keys, and how many of its leading blocks the store has, or is being given.

    `limit` bounds what is loaded, once a load brought less than was promised. `stale` says that its KV may be that of
    weights which were replaced since.
    """

    request: Any
    keys: PromptKeys | None = None
    naming: "Future[BlockSpec] | None" = None
    lookup: "Future[int] | None" = None
    ready: int | None = None
    local: int = 0
    held: int = 0
    limit: int | None = None
    promised: int = 0
    stale: bool = False

    @property
    def tokens(self) -> Sequence[int]:
        """Those that it has so far; while that is the prompt alone, the list itself, which takes long to copy."""
        tokens: Sequence[int] = self.request.prompt_token_ids
        return self.request.all_token_ids if self.request.num_output_tokens else tokens


@dataclass(eq=False)
class Scheduling:
    """`loads` and `saves` say which of both this engine does; `events` is None where nobody follows them."""

    spec: BlockSpec
    store: Store
    connection: Connection
    settings: ConnectorSettings
    page_tokens: int
    loads: bool
    saves: bool
    counters: Counters
    events: KVEvents | None = None
    adapters: Adapters = field(default_factory=Adapters)
    _requests: dict[str, Tracked] = field(default_factory=dict)
    _pending: list[Load] = field(default_factory=list)
    _complaints: Complaints = field(default_factory=lambda: Complaints(_log, "nothing was looked up"))
    _own: str = ""

    def __post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="cachestore-vllm-lookup")
        self._mirror = Mirror(self.connection) if self.settings.mirror and self.loads else None
        if self._mirror is not None:
            self._mirror.open()

    def add(self, request: Any) -> None:
        """A request has come. One whose prompt is no tokens is left alone, and one whose prompt comes in pieces."""
        kept = request.prompt_token_ids and request.prompt_embeds is None and request.pooling_params is None
        # a piece takes the last token back, which may have filled a block, and brings images that nobody is told of
        if not kept or request.resumable:
            self.counters.add("requests_left_alone")
            return
        tracked = self._requests[request.request_id] = Tracked(request)
        params = request.kv_transfer_params or {}
        if params.get("do_remote_prefill") and not self._own:
            tracked.promised = _promised(params.get(HANDOFF))
        if request.lora_request is None:
            tracked.keys = prompt_keys(self.spec, request)
        else:
            # its files are hashed, which takes a while the first time
            tracked.naming = self._threads.submit(self.adapters.spec, self.spec, request.lora_request)

    def matched(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """Tokens that can be loaded behind the `computed` that vLLM has; None while that is not known."""
        tracked = self._requests.get(request.request_id)
        if tracked is None or tracked.stale or not self.loads:
            return 0, False
        chain = self._grown(tracked)
        if chain is None:
            return (None, False) if tracked.naming is not None else (0, False)
        ready = self._ready(tracked, chain)
        if ready is None:
            return None, False
        size = self.spec.block_tokens
        tracked.local = computed
        more = ready * size - computed
        return (more, True) if more > 0 else (0, False)

    def allocated(self, request: Any, pages: tuple[list[int], ...], tokens: int) -> None:
        """vLLM has pages for the `tokens` that it was promised, which this step loads; or none were promised."""
        tracked = self._requests.get(request.request_id)
        if tracked is None or tracked.keys is None:
            return
        # what was found out is used up: after a preemption it is asked anew
        tracked.ready = None
        if not tokens:
            return
        size, per_block = self.spec.block_tokens, self.spec.block_tokens // self.page_tokens
        first, last = tracked.local // size, -(-(tracked.local + tokens) // size)
        chain = tracked.keys.chain
        self._pending.append(
            Load(
                request.request_id,
                chain.fingerprint,
                chain.keys[first:last],
                tuple(pages[0][first * per_block : last * per_block]),
                tracked.local // self.page_tokens - first * per_block,
                self.settings.handoff_wait if tracked.promised else 0.0,
            )
        )
        tracked.held = max(tracked.held, last)
        tracked.promised = 0

    def work(self, output: Any) -> Work:
        """What the workers are to do in this step."""
        work = Work(not output.total_num_scheduled_tokens, self._pending)
        self._pending = []
        if self.saves:
            cached = output.scheduled_cached_reqs
            computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
            computed |= {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
            for name, tokens in output.num_scheduled_tokens.items():
                tracked = self._requests.get(name)
                if tracked is not None and name in computed:
                    self._save(work, tracked, computed[name] + tokens, output.kv_connector_block_state)
        return work

    def done(self, done: Done) -> None:
        """What the workers have done. A load that brought less than promised is not tried again."""
        if self.events is not None:
            self.events.arrived(done.saved)
        for name, blocks in done.loaded.items():
            tracked = self._requests.get(name)
            if tracked is None or tracked.keys is None:
                continue
            first = tracked.local // self.spec.block_tokens
            if first + blocks < tracked.held:
                if self._mirror is not None:
                    self._mirror.missed(tracked.keys.chain.keys[first + blocks : tracked.held])
                tracked.limit = tracked.held = first + blocks

    def finished(self, request: Any) -> dict[str, Any] | None:
        """The request has ended; what a decoding engine is told of its prompt, if there is one."""
        tracked = self._requests.pop(request.request_id, None)
        params = request.kv_transfer_params or {}
        if tracked is None or not self.saves or not params.get("do_remote_decode"):
            return None
        # nobody finds what has a name of this engine's own
        blocks = 0 if self._own else min(tracked.held, request.num_prompt_tokens // self.spec.block_tokens)
        if blocks and tracked.keys is not None:
            # those that are still being saved are leased as they are published
            self._threads.submit(self._lease, tracked.keys.chain.first(blocks))
        return {"do_remote_prefill": True, "do_remote_decode": False, HANDOFF: blocks}

    def reset(self) -> bool:
        """vLLM's caches are reset, since weights may have been replaced: nobody else has KV of theirs, nor this engine.

        From now on it shares with itself alone, under a name that it did not have before. A request that holds KV of
        before goes on, but saves nothing more. False as long as there are such: vLLM has not reset its own cache then.
        """
        base = self.spec.revision.removesuffix(self._own)
        self._own = f" {uuid4().hex}"
        self.spec = replace(self.spec, revision=base + self._own)
        if self.events is not None:
            self.events = KVEvents(self.events.page_tokens, self.events.per_block)
        for tracked in list(self._requests.values()):
            request = tracked.request
            # what was loaded, and had no room to run yet, waits too
            if request.status in WITHOUT_KV and not request.num_computed_tokens:
                self.add(request)
            else:
                tracked.stale = True
        return not any(tracked.stale for tracked in self._requests.values())

    def close(self) -> None:
        """Ends threads and connections."""
        self._threads.shutdown(cancel_futures=True)
        if self._mirror is not None:
            self._mirror.close()

    def _grown(self, tracked: Tracked) -> Chain | None:
        """Its keys; None if they are not known yet, and for an adapter and tokens that have no name."""
        try:
            if tracked.keys is None and tracked.naming is not None and tracked.naming.done():
                naming, tracked.naming = tracked.naming, None
                tracked.keys = prompt_keys(naming.result(), tracked.request)
            return tracked.keys.grow(tracked.tokens) if tracked.keys is not None else None
        except (CacheStoreError, OSError, ValueError) as error:
            self.counters.add("requests_left_alone")
            _log.warning("request %s is left alone: %s", tracked.request.request_id, error)
            del self._requests[tracked.request.request_id]
            return None

    def _ready(self, tracked: Tracked, chain: Chain) -> int | None:
        """How many leading blocks can be loaded; None while that is not known."""
        if tracked.ready is None:
            if tracked.promised:
                tracked.ready = min(tracked.promised, len(chain))
            elif not chain.keys:
                tracked.ready = 0
            elif self._mirror is not None and self._mirror.fresh:
                tracked.ready = self._mirror.lookup(chain).ready
            elif tracked.lookup is None:
                tracked.lookup = self._threads.submit(self._ask, chain)
                return None
            elif not tracked.lookup.done():
                return None
            else:
                tracked.ready, tracked.lookup = tracked.lookup.result(), None
            tracked.held = max(tracked.held, tracked.ready)
        return tracked.ready if tracked.limit is None else min(tracked.ready, tracked.limit)

    def _ask(self, chain: Chain) -> int:
        """In a thread: a store that cannot answer has nothing."""
        try:
            ready = self.store.lookup(chain, timeout=self.settings.lookup_timeout).ready
        except CacheStoreError as error:
            self.counters.add("lookup_failures", reason=error.reason)
            self._complaints.failed(error)
            return 0
        self._complaints.went_well()
        return ready

    def _lease(self, chain: Chain) -> None:
        """In a thread: nothing evicts what there is of a prompt while it is handed on. The lease ends by itself."""
        try:
            self.store.lease(chain, ttl=self.settings.handoff_lease, timeout=self.settings.lookup_timeout)
        except CacheStoreError as error:
            self.counters.add("lease_failures", reason=error.reason)

    def _save(self, work: Work, tracked: Tracked, computed: int, state: Any) -> None:
        """Adds the blocks that are full after this step and that the store lacks."""
        if tracked.stale:
            return
        size, known = self.spec.block_tokens, tracked.request.num_tokens
        # drafts of a speculative step are no tokens yet
        end = min(computed, known) // size
        if end <= tracked.held or (chain := self._grown(tracked)) is None:
            return
        per_block = size // self.page_tokens
        pages = state.get_block_ids(tracked.request.request_id)[0]
        first = tracked.held
        handed_on = (tracked.request.kv_transfer_params or {}).get("do_remote_decode")
        work.saves.append(
            Save(
                chain.fingerprint,
                chain.keys[first:end],
                chain.keys[first - 1] if first else None,
                tuple(pages[first * per_block : end * per_block]),
                self.settings.handoff_lease if handed_on else 0.0,
            )
        )
        if self.events is not None:
            self.events.begun(tracked.request, first, chain.keys[first:end])
        tracked.held = end


def _promised(said: object) -> int:
    """The blocks that a request says are on their way. It comes from outside: an error here would end the engine."""
    return said if type(said) is int and said > 0 else 0
