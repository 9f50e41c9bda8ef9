"""The parts of the demo. Each asks through real workers, and says what came of it."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cachestore.cluster.runtime import Runtime
from cachestore.cluster.workers import kill_worker
from cachestore.demo.asking import Asked, Asker
from cachestore.demo.documents import Document, Question
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.service.client import RemoteStore
from prefill_worker.client import PrefillClient
from prefill_worker.prompt import CacheUse

Show = Callable[[Asked], None]

SETTLE_SECONDS = 20.0
KILL_SECONDS = 30.0


def ask_all(asker: Asker, documents: Sequence[Document], cache: CacheUse, show: Show) -> list[Asked]:
    """Every question of every document in turn."""
    asked = []
    for document in documents:
        for question in document.questions:
            one = asker.ask(document, question, cache)
            show(one)
            asked.append(one)
    return asked


def same_tokens(first: Sequence[Asked], second: Sequence[Asked]) -> bool:
    """Whether both runs of the same questions gave the same tokens."""
    return [one.tokens for one in first] == [one.tokens for one in second]


def from_redis(asker: Asker, store: RemoteStore, document: Document, show: Show) -> Asked:
    """Empties the cpu tier and asks again: the blocks come back from Redis."""
    _await_copies(store)
    store.clear("cpu")
    one = asker.ask(document, document.questions[0])
    show(one)
    return one


@dataclass(frozen=True)
class Killed:
    """A request whose prefill worker was killed under it."""

    worker: str
    asked: Asked


def kill_prefill(runtime: Runtime, application: str, asker: Asker, store: RemoteStore, document: Document) -> Killed:
    """Asks about a document that is nowhere stored, and kills the worker that is just prefilling it."""
    store.clear()
    _, members = store.members("prefill")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asker.ask, document, document.questions[0])
        until = time.monotonic() + KILL_SECONDS
        while not answer.done() and time.monotonic() < until:
            for member in members:
                if _busy(member.address):
                    kill_worker(runtime, f"{application}-prefill", "prefill", member.name)
                    return Killed(member.name, answer.result())
        raise Unavailable("no prefill worker was busy with the request: it was over too soon to be killed")


@dataclass(frozen=True)
class FirstTokens:
    """Median milliseconds to the first token, without the cache and with it, of the same prompts."""

    parameters: int
    cold_ms: float
    warm_ms: float
    identical: bool


def first_tokens(asker: Asker, document: Document, parameters: int, rounds: int = 3) -> FirstTokens:
    """Asks the same questions with the cache off and on, in turn."""
    asker.ask(document, document.questions[0])
    cold, warm = [], []
    for number in range(rounds):
        question: Question = document.questions[number % len(document.questions)]
        cold.append(asker.ask(document, question, CacheUse.OFF))
        warm.append(asker.ask(document, question))
    medians = [statistics.median(one.first_token_ms for one in asked) for asked in (cold, warm)]
    return FirstTokens(parameters, medians[0], medians[1], same_tokens(cold, warm))


def _busy(address: str) -> bool:
    try:
        with PrefillClient(address) as client:
            return any(figure.name == "queue" and figure.value for figure in client.stats(timeout=1.0))
    except CacheStoreError:
        return False


def _await_copies(store: RemoteStore) -> None:
    """Waits until Redis has what was put; copies are made in the background."""
    until = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until:
        figures = store.stats()
        stored = sum(figure.value for figure in figures if figure.name == "put_stored")
        copied = sum(f.value for f in figures if f.name == "tier_added" and f.label("tier") == "redis")
        if copied >= stored:
            return
        time.sleep(0.05)
