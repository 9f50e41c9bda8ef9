"""vLLM: our store as a secondary tier behind vLLM's own CPU tier, for `TieringOffloadingSpec`.

vLLM moves KV between GPU and CPU slots; this moves the bytes of slots. It sees hashes only, so its pages are opaque:
shared by engines of the same vLLM version, model and layout, and with nobody else. Tested with vLLM 0.33.0.

    "secondary_tiers": [{"type": "CacheStoreTier", "module_path": "cachestore.integrations.vllm_tier",
                         "address": "127.0.0.1:7420"}]

The `revision` of what the model computes is told by vllm_offloading's connector, or by whoever starts vLLM.

Nothing here waits in the scheduler's thread: lookups are answered with RETRY until a thread of vLLM's has asked the
store for all keys of a step, loads and stores are jobs of ours.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import numpy as np
import vllm
from vllm.v1.kv_offload.base import LookupResult, RequestOffloadingContext, get_offload_group_idx
from vllm.v1.kv_offload.tiering.async_lookup import AsyncLookupManager
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

from cachestore.block import Buffer, OpaqueSpec
from cachestore.config import Seconds
from cachestore.errors import CacheStoreError, ConfigError, InvalidArgument
from cachestore.integrations.client import remote_store
from cachestore.integrations.complaints import Complaints
from cachestore.integrations.named import model_name
from cachestore.integrations.opaque import OpaquePages, layout_text
from cachestore.integrations.settings import settings_from

_log = logging.getLogger(__name__)

KEY_BYTES = 32 + 4
"""A SHA-256 hash of vLLM's and its index of the cache group; hashes that may collide between prompts are shorter."""


@dataclass(frozen=True)
class TierSettings:
    """What an entry of `secondary_tiers` may say.

    `address` of the store, else the environment's; `revision`, which names the weights and all settings that change
    KV; `timeout` of one job; `threads` that move bytes.
    """

    address: str = ""
    revision: str = ""
    timeout: Seconds = 10.0
    threads: int = 2


class CacheStoreTier(SecondaryTierManager):
    """Slots of vLLM's CPU tier, in our store."""

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        chosen = settings_from(TierSettings, settings, "secondary_tiers")
        self._slots = np.asarray(primary_kv_view).view(np.uint8)
        self._spec = opaque_spec(offloading_spec.config, self._slots.shape[1], chosen.revision)
        self._store = remote_store(chosen.address)
        self._store.open()
        self._pages = OpaquePages(self._store, self._spec, self._slots.shape[1], chosen.timeout)
        self._lookups = Lookups(tier_type, self._pages)
        self._threads = ThreadPoolExecutor(chosen.threads, thread_name_prefix="cachestore-vllm-tier")
        self._requests: set[str] = set()
        self._before: set[str] = set()
        self._running: dict[int, Future[None]] = {}
        self._loading: dict[int, list[bytes]] = {}
        self._complaints = Complaints(_log, "pages were not moved")
        self._finished: SimpleQueue[tuple[int, list[bool], float]] = SimpleQueue()

    def lookup(self, key: bytes, req_context: Any) -> LookupResult:
        found = self._lookups.lookup(key, req_context)
        if found is None:
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def submit_store(self, job_metadata: Any) -> None:
        if job_metadata.req_context.req_id in self._before:
            self._finished.put((job_metadata.job_id, [False] * len(job_metadata.keys), 0.0))
        else:
            self._submit(job_metadata, self._put)

    def submit_load(self, job_metadata: Any) -> None:
        self._loading[job_metadata.job_id] = list(job_metadata.keys)
        self._submit(job_metadata, self._read)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        while True:
            try:
                job, done, seconds = self._finished.get_nowait()
            except Empty:
                return
            self._running.pop(job, None)
            loaded = self._loading.pop(job, None)
            good = None
            if loaded is not None and not all(done):
                good = tuple(key for key, came in zip(loaded, done, strict=True) if came)
                # else the next lookup would begin the same load again, and the request never be scheduled
                self._lookups.mark_miss([key for key, came in zip(loaded, done, strict=True) if not came])
            yield JobResult(job, all(done), good, seconds, sum(done) * self._pages.page_bytes)

    def has_pending_work(self) -> bool:
        return bool(self._running)

    def on_new_request(self, req_context: Any) -> RequestOffloadingContext:
        self._requests.add(req_context.req_id)
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: Any) -> None:
        self._lookups.cleanup(req_context.req_id)
        self._requests.discard(req_context.req_id)
        self._before.discard(req_context.req_id)

    def on_schedule_end(self, context: Any) -> None:
        self._lookups.flush()

    def drain_jobs(self) -> None:
        """vLLM resets its caches, for which alone it calls this: weights may have been replaced.

        What was stored before is not found from then on, and what is stored is found by this engine only. Requests that
        vLLM knows already may hold KV of before, and store nothing more.
        """
        wait(list(self._running.values()))
        spec = replace(self._spec, revision=f"{self._spec.revision} {uuid4().hex}")
        self._pages = replace(self._pages, spec=spec)
        self._lookups.forget(self._pages)
        self._before = set(self._requests)

    def shutdown(self) -> None:
        self._lookups.shutdown()
        self._threads.shutdown()
        self._store.close()
        # vLLM unmaps its slots only when nobody has a view of them
        del self._slots

    def _submit(self, job: Any, move: Callable[[Sequence[bytes], Sequence[Buffer]], list[bool]]) -> None:
        keys, slots = list(job.keys), [self._slots[slot] for slot in job.chunk_ids]

        def run() -> None:
            begun = time.monotonic()
            done = [False] * len(keys)
            try:
                done = move(keys, slots)
                self._complaints.went_well()
            except CacheStoreError as error:
                self._complaints.failed(error)
            except Exception:
                # nobody asks the future: vLLM is told that nothing was moved
                _log.exception("a job failed")
            finally:
                self._finished.put((job.job_id, done, time.monotonic() - begun))

        self._running[job.job_id] = self._threads.submit(run)

    def _read(self, keys: Sequence[bytes], slots: Sequence[Buffer]) -> list[bool]:
        came = self._pages.read(keys, slots)
        return [index < came for index in range(len(keys))]

    def _put(self, keys: Sequence[bytes], slots: Sequence[Buffer]) -> list[bool]:
        check_keys(keys)
        return self._pages.put(keys, slots)


class Lookups(AsyncLookupManager):
    """vLLM's bookkeeping of what it asked, answered by one call to the store for each cache group of a request."""

    def __init__(self, tier_type: str, pages: OpaquePages) -> None:
        # its thread begins at once
        self._pages, self._complaints = pages, Complaints(_log, "nothing was looked up")
        super().__init__(tier_type)

    def forget(self, pages: OpaquePages) -> None:
        """All questions and answers of before: from now on `pages` are asked about."""
        self._pages = pages
        self._lookup_state.clear()
        self._req_keys.clear()
        self._lookup_batch.clear()

    def batch_lookup(self, keys: list[bytes], req_context: Any) -> Iterable[bool]:
        """Of each group those up to the first gap, in the order in which vLLM asked: it cannot use those behind."""
        try:
            check_keys(keys)
            found: list[bool] = []
            for _, of_group in groupby(keys, get_offload_group_idx):
                alike = list(of_group)
                ready = self._pages.leading(alike)
                found += [index < ready for index in range(len(alike))]
        except CacheStoreError as error:
            self._complaints.failed(error)
            return [False] * len(keys)
        self._complaints.went_well()
        return found


def check_keys(keys: Collection[bytes]) -> None:
    """InvalidArgument for keys from a hash that may collide between prompts."""
    if any(len(key) != KEY_BYTES for key in keys):
        raise InvalidArgument(
            "vLLM's block hashes can collide between prompts; choose --prefix-caching-hash-algo sha256 or sha256_cbor"
        )


def opaque_spec(config: Any, page_bytes: int, revision: str) -> OpaqueSpec:
    """All that decides what the bytes of a slot mean: `config` is vLLM's OffloadingConfig."""
    if not revision:
        raise ConfigError(
            "secondary_tiers: a tier is not told by which weights and settings KV is computed; use the "
            "CacheStoreOffloadingConnector, which tells it, or give a `revision` that changes whenever they do"
        )
    parallel = config.parallel
    facts: dict[str, object] = {
        "page_bytes": page_bytes,
        "cache": asdict(config.cache),
        "groups": [asdict(group) for group in config.groups],
        "layout": config.kv_cache_layout,
        "canonical": config.canonical_layout,
        "replicated": config.replicated_layout,
    }
    if not parallel.is_parallelism_agnostic:
        # a slot is the parts of all workers one behind the other
        facts["parallel"] = [parallel.tp_size, parallel.pp_size, parallel.pcp_size, parallel.dcp_size]
    name = config.model.name
    return OpaqueSpec(
        engine="vllm",
        engine_version=vllm.__version__,
        model=model_name(name),
        revision=revision,
        dtype=config.model.dtype,
        layout=layout_text(facts),
        rank=0,
        world_size=1,
        hash_algorithm="sha256",
        setting="--prefix-caching-hash-algo",
    )
