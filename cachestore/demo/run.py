"""The scenes in order, on a Ray of our own: what `cachestore demo` shows and reports."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cachestore.cluster.deploy import Deployment, down, up
from cachestore.cluster.local_nodes import LocalNodes
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.demo import scenes
from cachestore.demo.asking import Asked, Asker, accuracy, first_token_ms, same_text
from cachestore.demo.documents import Document
from cachestore.engine.model import model_spec, tokenizer
from cachestore.engine.settings import EngineSettings
from cachestore.errors import Unavailable
from cachestore.metrics import Figure, total
from cachestore.service.client import RemoteStore

PATIENT = {"connect_timeout": "1s", "timeout": "1s"}
"""So that a machine which plays several nodes does not take a Redis for dead that is only slow."""

START_SECONDS = 600.0
"""What the workers of several nodes may take to start on one machine."""

START_OPTION = "--start-timeout"
"""What the command line calls `cluster.start_timeout`."""

CPUS = 2
"""Of each of several nodes, as Ray counts them: enough for all workers when one node is lost."""

PAGES = 80
"""Blocks of KV that a worker itself holds: not enough for all documents that ship, so that it needs the store."""


class Watcher(Protocol):
    """Who looks on while the demo runs."""

    def tell(self, text: str) -> None:
        """What is being done now."""

    def scene(self, title: str) -> None:
        """A new part begins; rows that follow belong to it."""

    def row(self, asked: Sequence[Asked]) -> None:
        """These questions were answered."""

    def say(self, text: str) -> None:
        """What a part showed."""


@dataclass(frozen=True)
class Report:
    """What the demo found. All runs are of the same questions: `first` while nothing was stored, `warm` behind it,
    `cold` with the cache off, `redis` with the memory tier emptied, `killed` while a worker was lost, and `lost` while
    a node was, if there were several."""

    first: Sequence[Asked]
    warm: Sequence[Asked]
    cold: Sequence[Asked]
    redis: Sequence[Asked]
    redis_blocks: int
    killed: scenes.Killed
    figures: Sequence[Figure]
    nodes: int = 1
    lost: scenes.Killed | None = None

    @property
    def cached(self) -> tuple[Sequence[Asked], ...]:
        """The runs with the cache on."""
        lost = () if self.lost is None else (self.lost.asked,)
        return self.first, self.warm, self.redis, self.killed.asked, *lost

    def as_json(self) -> dict[str, Any]:
        """One object for programs."""
        have, cached = list(self.figures), self.cached
        tiers = sorted({figure.label("tier") for figure in have if figure.name == "read_hits"})
        prompts = sum(one.prompt_tokens for run in cached for one in run)
        reused = sum(one.reused for run in cached for one in run)
        return {
            "users": scenes.USERS,
            "questions": len(self.warm),
            "identical_tokens": all(same_text(run, self.cold) for run in cached),
            "accuracy_warm": accuracy(self.warm),
            "accuracy_cold": accuracy(self.cold),
            "prompt_tokens": prompts,
            "tokens_reused": reused,
            "reused_share": round(reused / prompts, 3),
            "ttft_cold_ms_p50": round(first_token_ms(self.cold), 1),
            "ttft_warm_ms_p50": round(first_token_ms(self.warm), 1),
            "hits_by_tier": {tier: total(have, "read_hits", tier=tier) for tier in tiers},
            "redis_blocks_read": self.redis_blocks,
            "killed_worker": self.killed.worker,
            "moved_requests": self.killed.moved,
            "accuracy_after_kill": accuracy(self.killed.asked),
            "nodes": self.nodes,
            **({} if self.lost is None else self._loss(self.lost)),
        }

    def _loss(self, lost: scenes.Killed) -> dict[str, Any]:
        return {
            "killed_node": lost.worker,
            "moved_from_node": lost.moved,
            "accuracy_after_node": accuracy(lost.asked),
        }


def run(
    model: str, documents: Sequence[Document], watcher: Watcher, nodes: int = 1, start_timeout: float | None = None
) -> Report:
    """Starts everything, plays every scene and takes everything down. Of several `nodes` one is killed at last.

    Whatever starts has `start_timeout` seconds, or what fits so many nodes.
    """
    engine: dict[str, Any] = {"model": model, "threads": 1}
    # what cannot work is said before anything starts
    size = model_spec(EngineSettings(**engine)).block_tokens
    longest = _longest(tokenizer(EngineSettings(**engine)), documents)
    tables: dict[str, Any] = {
        "tiers": [{"name": "cpu", "capacity": "1GiB"}, {"name": "redis", "url": "embedded", "capacity": "512MiB"}],
        "service": {"port": 0},
        "engine": engine,
        "batch": {"pages": max(PAGES, 4 * longest // size)},
        "gateway": {"port": 0},
    }
    timeout = start_timeout or (START_SECONDS if nodes > 1 else ClusterSettings.start_timeout)
    settings = ClusterSettings(prefill=1, decode=2, drain=2.0, start_timeout=timeout)
    watcher.tell(f"starting Ray{f' on {nodes} nodes' if nodes > 1 else ''}")
    with ExitStack() as opened:
        local = None
        if nodes > 1:
            tables |= {"tiers": [{"name": "cpu", "capacity": "1GiB"}, {**tables["tiers"][1], "url": "managed"}]}
            tables |= {"directory": {"name": "redis", **PATIENT}}
            local = opened.enter_context(LocalNodes(nodes, CPUS))
            settings = replace(settings, address=local.address)
        runtime = opened.enter_context(Runtime(settings))
        opened.callback(down, runtime)
        opened.callback(watcher.tell, "stopping")
        deployment = _up(runtime, tables, watcher)
        stores = {node: opened.enter_context(RemoteStore(at)) for node, at in deployment.stores.items()}
        return _played(runtime, local, Asker(deployment.gateway), stores, documents, watcher)


def _up(runtime: Runtime, tables: Mapping[str, Any], watcher: Watcher) -> Deployment:
    """Brings everything up; what took too long is told by the option of the demo, which has no configuration."""
    try:
        return up(runtime, tables, watcher.tell)
    except Unavailable as error:
        said = str(error).replace("cluster.start_timeout", START_OPTION)
        if START_OPTION not in said:
            raise
        raise Unavailable(
            f"{said}; this machine is too busy or too slow for that: give {START_OPTION} more, or end what else "
            "runs on it"
        ) from error


def _longest(tokenizer: Any, documents: Sequence[Document]) -> int:
    """How many tokens the longest prompt has."""
    texts = [document.text + question.text for document in documents for question in document.questions]
    return max(len(tokenizer.encode(text)) for text in texts)


def _played(
    runtime: Runtime,
    nodes: LocalNodes | None,
    asker: Asker,
    by_node: Mapping[str, RemoteStore],
    documents: Sequence[Document],
    watcher: Watcher,
) -> Report:
    stores = list(by_node.values())
    watcher.say(f"OpenAI's interface is at {asker.url}/v1, and eight users begin to ask")
    watcher.scene("nothing is stored: each document is computed once")
    first = scenes.ask_all(asker, documents, watcher.row)
    watcher.scene("everybody asks again")
    warm = scenes.ask_all(asker, documents, watcher.row)
    watcher.scene("the same questions with the cache off")
    cold = scenes.ask_all(asker, documents, watcher.row, cache=False)
    watcher.say(f"{_compared(warm, cold)} with the cache and without")
    watcher.scene("the store's memory is emptied")
    redis, blocks = scenes.from_redis(asker, stores, documents, watcher.row)
    watcher.say(f"{_compared(redis, cold)}; {blocks} blocks came back from Redis")
    watcher.scene("everything is forgotten, and a decode worker is killed while it generates")
    killed = scenes.kill_decode(runtime, asker, stores, documents, watcher.row)
    watcher.say(
        f"{_compared(killed.asked, cold)}; {killed.worker} took {killed.moved} requests with it, done elsewhere"
    )
    figures = scenes.figures(stores)
    if nodes is None:
        return Report(first, warm, cold, redis, blocks, killed, figures)
    # with two losses at a time nobody may be left who answers
    scenes.await_replaced(asker, stores, killed.worker, runtime.settings.decode)
    watcher.scene("everything is forgotten, and a node is killed with its store and its workers")
    lost = scenes.kill_node(nodes, asker, stores, documents, watcher.row)
    watcher.say(f"{_compared(lost.asked, cold)}; node {lost.worker} took {lost.moved} requests with it, done elsewhere")
    return Report(first, warm, cold, redis, blocks, killed, figures, len(stores), lost)


def _compared(asked: Sequence[Asked], cold: Sequence[Asked]) -> str:
    return f"{'identical' if same_text(asked, cold) else 'DIFFERENT'} answers to {len(asked)} questions"
