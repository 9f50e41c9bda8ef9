"""vLLM: our store as a KV connector, for prefixes that anyone computed and for prefill apart from decode.

    --kv-transfer-config '{"kv_connector": "CacheStoreConnector", "kv_role": "kv_both",
        "kv_connector_module_path": "cachestore.integrations.vllm_connector", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"address": "127.0.0.1:7420"}}'

The connector sees tokens, so its blocks are canonical: other engines with the same model share them. Loads happen
between steps while the request waits; what does not come is computed. Tested with vLLM 0.33.0.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
)

from cachestore.errors import ConfigError, InternalError
from cachestore.integrations.client import remote_store
from cachestore.integrations.vllm_events import KVEvents
from cachestore.integrations.vllm_layout import check_version, engine_pages, layer_names
from cachestore.integrations.vllm_naming import Adapters, base_spec
from cachestore.integrations.vllm_revision import adapter_settings
from cachestore.integrations.vllm_scheduling import Scheduling
from cachestore.integrations.vllm_settings import settings_of
from cachestore.integrations.vllm_shards import shard
from cachestore.integrations.vllm_stats import CacheStoreMetrics, CacheStoreStats, taken
from cachestore.integrations.vllm_transfer import Transfer
from cachestore.integrations.vllm_work import Done, Work
from cachestore.metrics import Counters
from cachestore.service.connection import Connection


class CacheStoreConnector(KVConnectorBase_V1):
    """One half of the connector: vLLM makes one in the scheduler's process, and one in each worker's."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        check_version()
        transfer = vllm_config.kv_transfer_config
        self._settings = settings_of(transfer)
        if transfer.is_kv_consumer and transfer.kv_load_failure_policy != "recompute":
            raise ConfigError(
                "kv_load_failure_policy must be 'recompute': else a request fails whose blocks were evicted meanwhile"
            )
        parallel = vllm_config.parallel_config
        if self._settings.layerwise and parallel.use_ubatching:
            raise ConfigError(
                "layerwise: with --enable-dbo or --ubatch-size a layer ends once for each part of a batch, and what "
                "the first part computed would be saved as if it were all; leave layerwise out"
            )
        layer_names(kv_cache_config)
        self._spec = base_spec(vllm_config, self._settings.block_tokens, self._settings.revision)
        ranks = parallel.tensor_parallel_size
        # the ranks of data-parallel engines are counted through
        self._shard = shard(self._spec, parallel.rank % ranks, ranks)
        self._counters = Counters()
        self._store = remote_store(self._settings.address)
        self._store.open()
        self._transfer: Transfer | None = None
        self._scheduling: Scheduling | None = None
        if role is KVConnectorRole.SCHEDULER:
            page_tokens, events = vllm_config.cache_config.block_size, vllm_config.kv_events_config
            told = events is not None and events.enable_kv_cache_events
            self._scheduling = Scheduling(
                self._spec,
                self._store,
                Connection(self._store.connection.address),
                self._settings,
                page_tokens,
                loads=transfer.is_kv_consumer,
                saves=transfer.is_kv_producer,
                counters=self._counters,
                events=KVEvents(page_tokens, self._spec.block_tokens // page_tokens) if told else None,
                adapters=Adapters(adapter_settings(vllm_config)),
            )

    # the scheduler's half

    def on_new_request(self, request: Any) -> None:
        self._scheduler.add(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._scheduler.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._scheduler.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return self._scheduler.work(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        if isinstance(connector_output.kv_connector_worker_meta, Done):
            self._scheduler.done(connector_output.kv_connector_worker_meta)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        # what is saved has left the pages before the step ended, so they can be freed at once
        return False, self._scheduler.finished(request)

    def reset_cache(self) -> bool | None:
        return self._scheduler.reset()

    def take_events(self) -> Iterable[Any]:
        return [] if self._scheduler.events is None else self._scheduler.events.taken()

    @property
    def requires_kv_delivery(self) -> bool:
        # a block that is lost on its way is computed by whoever misses it
        return False

    # the workers' half

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        pages = engine_pages(self._shard.spec, self._vllm_config, self._kv_cache_config, kv_caches)
        names = layer_names(self._kv_cache_config)
        self._transfer = Transfer(self._spec, self._shard, self._store, pages, names, self._settings, self._counters)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        self._worker.reserve(self._work)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        self._worker.begin(self._work)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing to wait for: a request is scheduled once all its loads have ended."""

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        if self._settings.layerwise:
            self._worker.gather(layer_name)

    def wait_for_save(self) -> None:
        self._worker.gather_rest()

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        return KVConnectorTransferResults(finished_recving=self._worker.ended())

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.failed_pages()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self._worker.done()

    # both

    def get_kv_connector_stats(self) -> CacheStoreStats | None:
        return taken(self._counters)

    def shutdown(self) -> None:
        if self._scheduling is not None:
            self._scheduling.close()
        if self._transfer is not None:
            self._transfer.close()
        self._store.close()

    @classmethod
    def requires_piecewise_for_cudagraph(cls, extra_config: dict[str, Any]) -> bool:
        # a replayed graph would leave out what runs between its layers
        return bool(extra_config.get("layerwise", False))

    @classmethod
    def supports_sleep_mode(cls, kv_transfer_config: Any) -> bool:
        # its pages move, under loads that are on their way
        return False

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> CacheStoreStats:
        return CacheStoreStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> CacheStoreMetrics:
        return CacheStoreMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    @property
    def _scheduler(self) -> Scheduling:
        if self._scheduling is None:
            raise InternalError("vLLM asked a worker's half of the connector what the scheduler's knows")
        return self._scheduling

    @property
    def _worker(self) -> Transfer:
        if self._transfer is None:
            raise InternalError("vLLM asked for a transfer before it registered its KV caches")
        return self._transfer

    @property
    def _work(self) -> Work:
        work = self._get_connector_metadata()
        if not isinstance(work, Work):
            raise InternalError(f"vLLM handed on {type(work).__name__}, not what the scheduler's half made")
        return work
