"""Figures in the text format of Prometheus (version 0.0.4)."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cachestore.metrics import Figure, total

PREFIX = "cachestore_gateway_"
GAUGES = frozenset({"requests_under_way", "workers", "worker_load"})
TIMES = "time_"
"""Begins the figures of a time histogram, as `Counters.figures` tells it."""


class _Once(Collector):
    """Hands these figures over."""

    def __init__(self, figures: Iterable[Figure]) -> None:
        self._figures = list(figures)

    def collect(self) -> Iterable[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for figure in self._figures:
            if figure.name.startswith(TIMES):
                continue
            family = GaugeMetricFamily if figure.name in GAUGES else CounterMetricFamily
            labels = dict(figure.labels)
            if figure.name not in families:
                families[figure.name] = family(PREFIX + figure.name, figure.name.replace("_", " "), labels=list(labels))
            families[figure.name].add_metric(list(labels.values()), figure.value)
        yield from families.values()
        yield _times([figure for figure in self._figures if figure.name.startswith(TIMES)])


def _times(figures: Sequence[Figure]) -> HistogramMetricFamily:
    """The histograms by operation, in seconds."""
    family = HistogramMetricFamily(PREFIX + "seconds", "seconds by operation", labels=["op"])
    for op in sorted({figure.label("op") for figure in figures}):
        of = [figure for figure in figures if figure.label("op") == op]
        bounds = sorted((int(figure.label("le")), figure.value) for figure in of if figure.name == "time_bucket")
        buckets = [(f"{bound / 1e6:g}", float(below)) for bound, below in bounds]
        count, microseconds = total(of, "time_count"), total(of, "time_sum_us")
        family.add_metric([op], [*buckets, ("+Inf", float(count))], microseconds / 1e6)
    return family


def exposition(figures: Iterable[Figure]) -> bytes:
    """The page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(figures))
    page: bytes = generate_latest(registry)
    return page
