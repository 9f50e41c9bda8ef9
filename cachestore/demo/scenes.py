"""What happens while users ask. Each scene asks every question of every document, eight users at a time."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

from cachestore.cluster.gateways import NAME as GATEWAY
from cachestore.cluster.local_nodes import LocalNodes
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.workers import APPLICATION, kill_worker
from cachestore.demo.asking import Asked, Asker
from cachestore.demo.documents import Document
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.metrics import Figure, Labels, total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from decode_worker.client import DecodeClient

USERS = 8
"""How many ask at the same time."""

SETTLE_SECONDS = 20.0

REPLACE_SECONDS = 180.0
"""How long another worker may take to start where one was killed, on a machine that plays several nodes."""

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


def from_redis(
    asker: Asker, stores: Sequence[RemoteStore], documents: Sequence[Document], show: Show
) -> tuple[list[Asked], int]:
    """Empties every store's cpu tier and asks again; the answers, and how many blocks came back from Redis."""
    _await_copies(stores)
    for store in stores:
        store.clear("cpu")
    before = total(figures(stores), "read_hits", tier="redis")
    asked = ask_all(asker, documents, show)
    return asked, total(figures(stores), "read_hits", tier="redis") - before


def figures(stores: Sequence[RemoteStore]) -> list[Figure]:
    """What all of them count, together."""
    sums = Counter[tuple[str, Labels]]()
    for figure in (figure for store in stores for figure in store.stats()):
        sums[figure.name, figure.labels] += figure.value
    return [Figure(name, labels, value) for (name, labels), value in sums.items()]


@dataclass(frozen=True)
class Killed:
    """What was asked while a worker, or its node, was killed, which `moved` so many requests elsewhere."""

    worker: str
    asked: Sequence[Asked]
    moved: int


def kill_decode(
    runtime: Runtime, asker: Asker, stores: Sequence[RemoteStore], documents: Sequence[Document], show: Show
) -> Killed:
    """Forgets all blocks, and kills a decode worker while eight users wait for it to compute them again."""
    _forget(stores)
    return _killed(asker, documents, show, lambda: _kill_busy(runtime, stores))


def await_replaced(asker: Asker, stores: Sequence[RemoteStore], lost: str, workers: int) -> None:
    """Waits until so many decode workers are there without the one called `lost`. Unavailable if it takes too long."""
    until = time.monotonic() + REPLACE_SECONDS
    while True:
        names = [member.name for member in _decoding(stores)]
        if len(names) >= workers and lost not in names and asker.figure("workers") >= workers:
            return
        if time.monotonic() > until:
            raise Unavailable(f"there is no other decode worker after {REPLACE_SECONDS:g} s: {', '.join(names)}")
        time.sleep(0.2)


def kill_node(
    nodes: LocalNodes, asker: Asker, stores: Sequence[RemoteStore], documents: Sequence[Document], show: Show
) -> Killed:
    """The same with a node: its store dies, and all of its workers; if it can be, not all decode workers."""
    _forget(stores)
    workers = Counter(member.node for member in _decoding(stores))

    def kill() -> str:
        gateways = nodes.runs(f"SERVE_REPLICA::{GATEWAY}#")
        # whoever sits on the node that dies gets no answer at all
        others = {node: workers[node[:12]] for node in nodes.others if not gateways[node]}
        victim = max(others, key=lambda node: (others[node] < workers.total(), others[node]))
        nodes.kill(victim)
        return victim[:12]

    return _killed(asker, documents, show, kill)


def _forget(stores: Sequence[RemoteStore]) -> None:
    for store in stores:
        store.clear()


def _killed(asker: Asker, documents: Sequence[Document], show: Show, kill: Callable[[], str]) -> Killed:
    """Asks everything, and kills something once the first question is answered."""
    before = asker.figure("worker_failures_total")
    with _users() as users:
        futures = [
            users.submit(asker.ask, document, question) for document in documents for question in document.questions
        ]
        wait(futures, return_when=FIRST_COMPLETED)
        name = kill()
        asked = [future.result() for future in futures]
    show(asked)
    return Killed(name, asked, asker.figure("worker_failures_total") - before)


@contextmanager
def _users() -> Iterator[ThreadPoolExecutor]:
    """Eight threads; what they have not begun is not begun when something fails."""
    users = ThreadPoolExecutor(USERS)
    try:
        yield users
    finally:
        users.shutdown(cancel_futures=True)


def _kill_busy(runtime: Runtime, stores: Sequence[RemoteStore]) -> str:
    """Kills the decode worker with the most to do; its name."""
    victim = max(_decoding(stores), key=_queue)
    kill_worker(runtime, f"{APPLICATION}-decode", "decode", victim.name)
    return victim.name


def _decoding(stores: Sequence[RemoteStore]) -> list[Member]:
    return [member for store in stores for member in store.members("decode")[1]]


def _queue(worker: Member) -> int:
    try:
        with DecodeClient(worker.address) as client:
            return total(client.stats(timeout=1.0), "queue")
    except CacheStoreError:
        return 0


def _await_copies(stores: Sequence[RemoteStore]) -> None:
    """Waits until Redis has what was put; copies are made in the background."""
    until = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < until:
        counted = figures(stores)
        if total(counted, "tier_added", tier="redis") >= total(counted, "put_stored"):
            return
        time.sleep(0.05)
