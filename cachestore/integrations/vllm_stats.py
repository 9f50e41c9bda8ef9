"""vLLM: what the connector counts, in vLLM's log and among its Prometheus metrics."""

from typing import Any

from prometheus_client import Counter
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from cachestore.metrics import Counters

FIGURES = {
    "loaded_blocks": "Blocks that came from the store.",
    "lost_blocks": "Blocks that were promised and did not come; vLLM computed them.",
    "saved_blocks": "Blocks that were put, or that the store had already.",
    "save_dropped_blocks": "Blocks that were not saved since staging was full.",
    "save_not_kept_blocks": "Blocks that the store did not keep, or that another writer has begun.",
    "load_failures": "Loads that ended with an error of the store.",
    "save_failures": "Saves that ended with an error of the store.",
    "lookup_failures": "Questions that the store did not answer.",
    "lease_failures": "Prompts handed to a decoding engine whose blocks the store did not promise to keep.",
    "requests_left_alone": "Requests whose prompt is no tokens, or whose adapter has no name.",
}
"""What is counted, and what it means."""


class CacheStoreStats(KVConnectorStats):
    """Amounts since the last time, by figure."""

    def reset(self) -> None:
        self.data = dict[str, int]()

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        names = self.data.keys() | other.data.keys()
        self.data = {name: self.data.get(name, 0) + other.data.get(name, 0) for name in names}
        return self

    def reduce(self) -> dict[str, int | float]:
        return dict(self.data)

    def is_empty(self) -> bool:
        return not any(self.data.values())


class CacheStoreMetrics(KVConnectorPromMetrics):
    """`vllm:cachestore_<figure>_total`, by engine."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine: Any) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine)
        made = {
            name: metric_types[Counter](f"vllm:cachestore_{name}", meaning, labelnames=labelnames)
            for name, meaning in FIGURES.items()
        }
        self._by_engine = {
            engine: {name: metric.labels(*values) for name, metric in made.items()}
            for engine, values in per_engine.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, amount in transfer_stats_data.items():
            self._by_engine[engine_idx][name].inc(amount)


def taken(counters: Counters) -> CacheStoreStats | None:
    """What was counted since the last time; None if nothing was."""
    data: dict[str, int] = {}
    for figure in counters.figures():
        if figure.name in FIGURES and figure.value:
            counters.add(figure.name, -figure.value, **dict(figure.labels))
            data[figure.name] = data.get(figure.name, 0) + figure.value
    return CacheStoreStats(data=data) if data else None
