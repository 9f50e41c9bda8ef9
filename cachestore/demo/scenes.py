"""What happens while users ask. Each scene asks every question of every document, eight users at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

from cachestore.cluster.runtime import Runtime
from cachestore.cluster.workers import APPLICATION, kill_worker
from cachestore.demo.asking import Asked, Asker
from cachestore.demo.documents import Document
from cachestore.errors import CacheStoreError
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from decode_worker.client import DecodeClient

USERS = 8
"""How many ask at the same time."""

SETTLE_SECONDS = 20.0

Show = Callable[[Sequence[Asked]], None]
"""Is shown the answers about one document."""


def ask_all(asker: Asker, documents: Sequence[Document], show: Show, *, cache: bool = True) -> list[Asked]:
    """Every question, one document behind the other."""
    asked: list[Asked] = []
    with _users() as users:
        for document in documents:
            futures = [users.submit(asker.ask, document, question, cache=cache) for question in document.questions]
            answers = [future.result() for future in futures]
            show(answers)
            asked += answers
    return asked


def from_redis(asker: Asker, store: RemoteStore, documents: Sequence[Document], show: Show) -> tuple[list[Asked], int]:
    """Empties the cpu tier and asks again; the answers, and how many blocks came back from Redis."""
    _await_copies(store)
    store.clear("cpu")
    before = total(store.stats(), "read_hits", tier="redis")
    asked = ask_all(asker, documents, show)
    return asked, total(store.stats(), "read_hits", tier="redis") - before


@dataclass(frozen=True)
class Killed:
    """What was asked while a worker was killed that was generating, which `moved` so many requests elsewhere."""

    worker: str
    asked: Sequence[Asked]
    moved: int


def kill_decode(
    runtime: Runtime, asker: Asker, store: RemoteStore, documents: Sequence[Document], show: Show
) -> Killed:
    """Forgets all blocks, and kills a decode worker while eight users wait for it to compute them again."""
    store.clear()
    before = asker.figure("worker_failures_total")
    with _users() as users:
        futures = [
            users.submit(asker.ask, document, question) for document in documents for question in document.questions
        ]
        worker = _kill_busy(runtime, store, futures)
        asked = [future.result() for future in futures]
    show(asked)
    return Killed(worker, asked, asker.figure("worker_failures_total") - before)


@contextmanager
def _users() -> Iterator[ThreadPoolExecutor]:
    """Eight threads; what they have not begun is not begun when something fails."""
    users = ThreadPoolExecutor(USERS)
    try:
        yield users
    finally:
        users.shutdown(cancel_futures=True)


def _kill_busy(runtime: Runtime, store: RemoteStore, futures: Sequence["Future[Asked]"]) -> str:
    """Kills the decode worker with the most to do, once the first question is answered; its name."""
    wait(futures, return_when=FIRST_COMPLETED)
    victim = max(store.members("decode")[1], key=_queue)
    kill_worker(runtime, f"{APPLICATION}-decode", "decode", victim.name)
    return victim.name


def _queue(worker: Member) -> int:
    try:
        with DecodeClient(worker.address) as client:
            return total(client.stats(timeout=1.0), "queue")
    except CacheStoreError:
        return 0


def _await_copies(store: RemoteStore) -> None:
    """Waits until Redis has what was put; copies are made in the background."""
    until = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until:
        figures = store.stats()
        if total(figures, "tier_added", tier="redis") >= total(figures, "put_stored"):
            return
        time.sleep(0.05)
