"""Workers become more and fewer with their queues, and one that goes finishes what it has."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from cachestore.cluster.scaling import QUEUE, by_queues
from cachestore.cluster.settings import ClusterSettings
from cachestore.errors import CacheStoreError, ConfigError, Unavailable
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from decode_worker.client import DecodeClient

TOKENS = 400


def wanted(told: dict[str, dict[str, float]], target: float = 4.0) -> float:
    """How many replicas the policy wants where there are three."""
    config = SimpleNamespace(get_target_ongoing_requests=lambda: target)
    context: Any = SimpleNamespace(aggregated_metrics=told, target_num_replicas=3, config=config)
    return by_queues(context)[0]


def test_as_many_as_the_queues_ask_for() -> None:
    assert wanted({QUEUE: {"a": 10.0, "b": 10.0}}) == 5.0
    assert wanted({QUEUE: {"a": 0.0, "b": 1.0, "c": 0.0}}) == 0.25
    assert wanted({QUEUE: {"a": 10.0, "b": 10.0}, "running_requests": {"a": 90.0}}, target=20.0) == 1.0


@pytest.mark.parametrize("told", [{}, {QUEUE: {}}, {"running_requests": {"a": 0.0}}])
def test_while_nobody_says_anything_there_are_as_many_as_before(told: dict[str, dict[str, float]]) -> None:
    assert wanted(told) == 3


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"decode_most": 1}, "cluster.decode_most"),
        ({"prefill": 0, "prefill_most": 2}, "cluster.prefill_most"),
        ({"decode_most": -1}, "cluster.decode_most"),
        ({"target_queue": 0.0}, "cluster.target_queue"),
        ({"scale_up_after": -1.0}, "cluster.scale_up_after"),
        ({"drain": -1.0}, "cluster.drain"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        ClusterSettings(**settings)


@pytest.fixture
def store(ray: Any, configuration: str, next_object: Callable[[Any], Any]) -> Iterator[RemoteStore]:
    """The store of a cluster with one decode worker, or two."""
    config = ray.folder / "cachestore.toml"
    few = "prefill = 0\ndecode = 1\ndecode_most = 2\ntarget_queue = 3\n"
    fast = 'scale_up_after = "1s"\nscale_down_after = "1s"\ndrain = "20s"\n'
    config.write_text(configuration.replace("prefill = 1\ndecode = 1\n", few + fast))
    process = ray.start("-m", "cachestore", "up", "--block", "--json", "--config", str(config))
    with RemoteStore(next(iter(next_object(process)["stores"].values()))) as one:
        yield one


def decoding(store: RemoteStore) -> list[Member]:
    return list(store.members("decode")[1])


@contextmanager
def busy(worker: Member, threads: int) -> Iterator[list[int]]:
    """So many requests are under way at `worker` inside the context; of one thread, how many tokens each got.

    Whoever is refused asks no more: the worker has left.
    """
    over, made = Event(), []

    def ask(number: int) -> None:
        with DecodeClient(worker.address) as client:
            while not over.is_set():
                try:
                    with client.generate([5, number, *range(3, 40)], max_tokens=TOKENS, timeout=60) as answer:
                        made.append(0)
                        for _ in answer:
                            made[-1] += 1
                except Unavailable:
                    return

    with ThreadPoolExecutor(threads) as pool:
        asking = [pool.submit(ask, number) for number in range(threads)]
        try:
            yield made
        finally:
            over.set()
            for each in asking:
                each.result()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_more_while_there_is_a_queue_and_fewer_behind_it(store: RemoteStore, wait_until: Callable[..., None]) -> None:
    (first,) = decoding(store)
    with busy(first, 6):
        wait_until(lambda: len(decoding(store)) == 2, 120)
    second = next(each for each in decoding(store) if each.name != first.name)
    # one request at each is work for one worker
    with busy(first, 1) as one, busy(second, 1) as other:
        wait_until(lambda: len(decoding(store)) == 1, 120)
        (stays,) = decoding(store)
        time.sleep(2.0)
    goes, (left, right) = first if stays == second else second, (one, other)
    finished = left if goes is first else right
    # the model may end an answer early; none was cut off, and then nobody took another one
    assert finished[-1] == 0 and all(count > 0 for count in finished[:-1])
    with DecodeClient(goes.address) as client, pytest.raises(CacheStoreError):
        client.stats(timeout=5.0)
