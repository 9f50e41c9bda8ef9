"""The parts of the demo. Each asks through real workers, and says what came of it."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from cachestore.cluster.runtime import Runtime
from cachestore.cluster.workers import await_workers, kill_worker
from cachestore.demo.asking import Asked, Asker
from cachestore.demo.documents import Document, Question
from cachestore.errors import CacheStoreError
from cachestore.service.client import RemoteStore
from prefill_worker.client import PrefillClient
from prefill_worker.prompt import CacheUse

Show = Callable[[Asked], None]

SETTLE_SECONDS = 20.0
KILL_SECONDS = 30.0
MOST_KILLS = 3


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
    document: Document
    asked: Asked


def kill_prefill(
    runtime: Runtime, application: str, asker: Asker, store: RemoteStore, documents: Sequence[Document]
) -> Killed | None:
    """Asks about documents that are nowhere stored, and kills the worker that is just prefilling one.

    None if every request was over too soon. A worker that was killed behind its work says so itself: it is then the
    one that has prefilled the prompt, and the kill does not count.
    """
    until = time.monotonic() + KILL_SECONDS
    kills = 0
    for document in (*documents, *documents):
        if kills == MOST_KILLS or time.monotonic() > until:
            break
        await_workers([asker.store_address], {"prefill": 2}, KILL_SECONDS, asker.fingerprint)
        store.clear()
        worker, asked = _ask_and_kill(runtime, application, asker, store, document)
        if worker and asked.prefilled_by != worker:
            return Killed(worker, document, asked)
        if worker:
            kills += 1
            _await_gone(store, worker)
    return None


def _ask_and_kill(
    runtime: Runtime, application: str, asker: Asker, store: RemoteStore, document: Document
) -> tuple[str, Asked]:
    """The name of the worker that was seen at work and killed, empty if none was, and the answer."""
    with ExitStack() as stack:
        watched = [
            (member.name, stack.enter_context(PrefillClient(member.address)))
            for member in store.members("prefill")[1]
            if member.fingerprint == asker.fingerprint
        ]
        answer = stack.enter_context(ThreadPoolExecutor(1)).submit(asker.ask, document, document.questions[0])
        while not answer.done():
            for name, client in watched:
                if _busy(client):
                    kill_worker(runtime, f"{application}-prefill", "prefill", name)
                    return name, answer.result()
        return "", answer.result()


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


def _busy(client: PrefillClient) -> bool:
    try:
        return any(figure.name == "queue" and figure.value for figure in client.stats(timeout=1.0))
    except CacheStoreError:
        return False


def _await_gone(store: RemoteStore, worker: str) -> None:
    """Waits until the cluster map has forgotten a worker that was killed."""
    until = time.monotonic() + KILL_SECONDS
    while any(member.name == worker for member in store.members("prefill")[1]) and time.monotonic() < until:
        time.sleep(0.05)


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
