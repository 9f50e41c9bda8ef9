"""The scenes in order, on a Ray of our own: what `cachestore demo` shows and reports."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from cachestore.cluster.deploy import down, up
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.workers import APPLICATION, add_workers, await_workers
from cachestore.demo import larger, scenes
from cachestore.demo.asking import Asked, Asker, accuracy
from cachestore.demo.documents import Document
from cachestore.engine.model import model_spec, tokenizer
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import fingerprint
from cachestore.metrics import Figure, total
from cachestore.service.client import RemoteStore
from prefill_worker.prompt import CacheUse

LARGER = f"{APPLICATION}-larger"
SPARE = 64


class Watcher(Protocol):
    """Who looks on while the demo runs."""

    def tell(self, text: str) -> None:
        """What is being done now."""

    def scene(self, title: str) -> None:
        """A new part begins; rows that follow belong to it."""

    def row(self, asked: Asked) -> None:
        """One question was answered."""

    def say(self, text: str) -> None:
        """What a part showed."""


@dataclass(frozen=True)
class Report:
    """What the demo found. `warm` and `cold` are the same questions with the cache on and off.

    `killed` is None if no request was long enough for its worker to be killed under it.
    """

    documents: Sequence[Document]
    warm: Sequence[Asked]
    cold: Sequence[Asked]
    redis: Asked
    killed: scenes.Killed | None
    first_tokens: scenes.FirstTokens
    figures: Sequence[Figure]

    def as_json(self) -> dict[str, Any]:
        """One object for programs."""
        have = list(self.figures)
        everywhere = [
            scenes.same_tokens(self.warm, self.cold),
            self.redis.tokens == self.cold[0].tokens,
            self.first_tokens.identical,
        ]
        others = [self.redis]
        if self.killed is not None:
            everywhere.append(self.killed.asked.tokens == self._first_answer(self.killed.document))
            others.append(self.killed.asked)
        tiers = sorted({figure.label("tier") for figure in have if figure.name == "read_hits"})
        return {
            "identical_tokens": all(everywhere),
            "accuracy_warm": accuracy(self.warm),
            "accuracy_cold": accuracy(self.cold),
            "questions": len(self.warm),
            "ttft_cold_ms_p50": round(self.first_tokens.cold_ms, 1),
            "ttft_warm_ms_p50": round(self.first_tokens.warm_ms, 1),
            "ttft_model_parameters": self.first_tokens.parameters,
            "tokens_reused": sum(sum(one.reused.values()) for one in (*self.warm, *others)),
            "hits_by_tier": {tier: total(have, "read_hits", tier=tier, purpose="reuse") for tier in tiers},
            "redis_tokens_reused": self.redis.reused.get("redis", 0),
            "killed_worker": self.killed and self.killed.worker,
            "right_after_kill": self.killed and self.killed.asked.right,
        }

    def _first_answer(self, document: Document) -> tuple[int, ...]:
        """What the first question about this document was answered without the cache."""
        before = self.documents[: self.documents.index(document)]
        return self.cold[sum(len(one.questions) for one in before)].tokens


def run(model: str, documents: Sequence[Document], watcher: Watcher) -> Report:
    """Starts everything, plays every scene and takes everything down."""
    engine: dict[str, Any] = {"model": model, "threads": 1}
    # what cannot work is said before anything starts
    spec = fingerprint(model_spec(EngineSettings(**engine)))
    tokens = tokenizer(EngineSettings(**engine))
    longest = _longest(tokens, documents)
    tables = {
        "tiers": [{"name": "cpu", "capacity": "1GiB"}, {"name": "redis", "url": "embedded", "capacity": "512MiB"}],
        "service": {"port": 0},
        "engine": engine,
        # a worker that answers nothing is not waited for long: there are two
        "decode_worker": {"prefill_timeout": "20s"},
    }
    settings = ClusterSettings(prefill=2, decode=2, num_cpus=1.0)
    small = replace(settings, prefill=1, decode=1, num_cpus=0.0)
    with tempfile.TemporaryDirectory(prefix="cachestore-demo-") as folder:
        watcher.tell("starting Ray")
        with Runtime(settings) as runtime:
            try:
                deployment = up(runtime, tables, watcher.tell)
                with RemoteStore(deployment.store) as store:
                    asker = Asker(store, deployment.store, spec, tokens)
                    warm, cold, redis = _reuse(asker, store, documents, watcher)
                    killed = _kill(runtime, asker, store, documents, watcher)
                    watcher.scene("time to first token")
                    watcher.tell("making a larger model of random weights")
                    parameters = larger.make(model, Path(folder), max(longest + SPARE, 4096))
                    bigger = {**engine, "model": folder}
                    other = fingerprint(model_spec(EngineSettings(**bigger)))
                    add_workers({**tables, "engine": bigger}, small, watcher.tell, LARGER)
                    await_workers(deployment.stores.values(), small.replicas(), settings.start_timeout, other)
                    asker = Asker(store, deployment.store, other, tokens, 2)
                    times = scenes.first_tokens(asker, documents[0], parameters)
                    watcher.say(
                        f"random-weight model of {parameters / 1e6:.0f} M parameters: first token after "
                        f"{times.cold_ms:,.0f} ms without the cache, {times.warm_ms:,.0f} ms with it"
                    )
                    figures = store.stats()
            finally:
                watcher.tell("stopping")
                down(runtime)
    return Report(documents, warm, cold, redis, killed, times, figures)


def _longest(tokenizer: Any, documents: Sequence[Document]) -> int:
    """How many tokens the longest prompt has."""
    texts = [document.text + question.text for document in documents for question in document.questions]
    return max(len(tokenizer.encode(text)) for text in texts)


def _reuse(
    asker: Asker, store: RemoteStore, documents: Sequence[Document], watcher: Watcher
) -> tuple[list[Asked], list[Asked], Asked]:
    watcher.scene("documents prefilled once, questions answered from the store")
    warm = scenes.ask_all(asker, documents, CacheUse.READ_AND_WRITE, watcher.row)
    watcher.scene("the same questions with the cache off")
    cold = scenes.ask_all(asker, documents, CacheUse.OFF, watcher.row)
    same = "identical" if scenes.same_tokens(warm, cold) else "DIFFERENT"
    watcher.say(f"{same} tokens for {len(warm)} questions, with the cache and without")
    watcher.scene("the cpu tier emptied")
    redis = scenes.from_redis(asker, store, documents[0], watcher.row)
    watcher.say(f"{redis.reused.get('redis', 0)} tokens came back from Redis")
    return warm, cold, redis


def _kill(
    runtime: Runtime, asker: Asker, store: RemoteStore, documents: Sequence[Document], watcher: Watcher
) -> scenes.Killed | None:
    watcher.scene("a prefill worker killed in mid-request")
    killed = scenes.kill_prefill(runtime, APPLICATION, asker, store, documents)
    if killed is None:
        watcher.say("every request was over before its worker could be killed; longer documents give it time")
        return None
    watcher.row(killed.asked)
    watcher.say(f"{killed.worker} was killed; the prompt was prefilled by {killed.asked.prefilled_by}")
    return killed
