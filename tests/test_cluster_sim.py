"""The simulator of clusters counts right, and a cluster of one node is a replay."""

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from cachestore.replay.alone import Alone
from cachestore.replay.trace import read_trace
from cachestore.replay.yardsticks import infinite

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the simulator is made of."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import cluster_cases  # type: ignore[import-not-found]
    import cluster_prompts  # type: ignore[import-not-found]
    import cluster_run  # type: ignore[import-not-found]

    return SimpleNamespace(**{**vars(cluster_prompts), **vars(cluster_run), **vars(cluster_cases)})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A trace of 40 conversations that begin alike, one request a second."""
    random, said, numbers = (
        Random(3),
        [[number % 2, 100 + number] for number in range(40)],
        dict[tuple[int, ...], int](),
    )
    lines = []
    for second in range(500):
        walk = said[random.randrange(random.randrange(1, 41))]
        walk.append(random.randrange(3))
        del walk[30:]
        ids = [numbers.setdefault(tuple(walk[: end + 1]), len(numbers)) for end in range(len(walk))]
        lines.append(json.dumps({"timestamp": 1000 * second, "output_length": 50, "hash_ids": ids}) + "\n")
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("capacity", [40, 200])
def test_a_cluster_of_one_node_hits_what_a_replay_hits(sim: Any, place: Path, capacity: int) -> None:
    workload = sim.tiled(place, tiles=1, nodes=1, rate=1.0)
    alone = Alone()(read_trace(str(place)), "lru", capacity, lambda blocks: None)
    outcome = sim.Cluster(1, capacity).run(workload)
    assert 0 < outcome.hits == outcome.own == alone.hits and outcome.requests == workload.requests == 500


def test_every_block_is_counted_once(sim: Any, place: Path) -> None:
    trace, tiles = read_trace(str(place)), 2
    workload = sim.tiled(place, tiles, nodes=6, rate=0.5)
    cluster = sim.Cluster(6, 400)
    outcome = cluster.run(workload)
    assert outcome.own + outcome.others + outcome.computed == outcome.blocks == workload.blocks == tiles * trace.blocks
    assert outcome.requests == outcome.asked == workload.requests
    assert outcome.hits == sum(outcome.served) <= tiles * infinite(trace)
    assert sum(hits for _, hits in outcome.windows.values()) == outcome.hits
    assert outcome.copied == outcome.others > 0 == outcome.failed
    # the directory says what the nodes have, and none has more than there is room for
    assert sum(outcome.holders) == sum(len(node.present) for node in cluster.nodes.values()) <= 400
    assert all(len(node.present) <= node.capacity for node in cluster.nodes.values())
    # all together hit more than one with its part of the memory, and no more than one with all could
    assert sim.Cluster(1, 400 // 6).run(workload).hits < outcome.hits
    assert outcome.hits <= 1.02 * sim.Cluster(1, 400).run(workload).hits


def test_copies_of_a_trace_share_nothing_and_come_in_order_of_time(sim: Any, place: Path) -> None:
    workload = sim.tiled(place, tiles=4, nodes=2, rate=1.0)
    prompts = list(workload.prompts())
    times = [prompt.at for prompt in prompts]
    assert times == sorted(times) and 0 <= times[0] and times[-1] <= workload.seconds
    assert len({key for prompt in prompts for key in prompt.keys}) == workload.distinct
    assert prompts == list(workload.prompts())


def test_drawn_prompts_have_as_many_blocks_as_they_say(sim: Any) -> None:
    workload = sim.drawn(300, documents=50, nodes=3, rate=1.0)
    prompts = list(workload.prompts())
    assert len(prompts) == workload.requests and sum(len(prompt.keys) for prompt in prompts) == workload.blocks
    assert len({key for prompt in prompts for key in prompt.keys}) == workload.distinct


def test_what_is_popular_is_spread_over_the_nodes(sim: Any) -> None:
    workload = sim.drawn(1500, documents=600, nodes=10, rate=0.25)
    capacity = workload.distinct // 10
    even = sim.Cluster(10, capacity).run(workload)
    piled = sim.Cluster(10, capacity, sim.Policies(shares=None)).run(workload)
    assert even.imbalance < 1.5 < 2.5 < piled.imbalance
    assert even.hits > 0.9 * sim.Cluster(1, capacity).run(workload).hits


def test_a_lost_node_is_missed_and_its_prompts_are_computed_elsewhere(sim: Any, place: Path) -> None:
    workload = sim.tiled(place, tiles=2, nodes=5, rate=0.1)
    whole = sim.Cluster(5, 1000).run(workload)
    cluster = sim.Cluster(5, 1000)
    lost = cluster.run(workload, sim.Loss(workload.seconds / 2, 0.4))
    assert len(lost.served) == 3 and lost.failed > 0
    assert lost.own + lost.others + lost.computed == lost.blocks == whole.blocks and lost.hits < whole.hits
    # after their time to live nobody believes the entries of the lost
    gone = {node.name for node in cluster.nodes.values() if node.lost}
    assert not gone & {life.node for life in cluster.gateway.lives()}
    assert sum(lost.holders) == sum(len(node.present) for node in cluster.nodes.values() if not node.lost)
    kept, after = sim.recovery(lost, whole)
    assert 0 <= kept < 1 and 0 <= after <= workload.seconds / 2
    assert sim.recovery(whole, whole) == (1.0, 0.0)
