"""Which prefill worker is asked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from decode_worker.choosing import PrefillWorkers, place

SPEC = bytes(32)
A = Member("prefill", "a", "127.0.0.1:1", "here", b"1", queue=2, fingerprint=SPEC)
B = Member("prefill", "b", "127.0.0.1:2", "here", b"1", queue=1, fingerprint=SPEC)
OTHER_MODEL = Member("prefill", "c", "127.0.0.1:4", "here", b"1", fingerprint=b"other")


def test_the_shortest_queue_that_did_not_just_fail(serve: Callable[..., Any]) -> None:
    server, now = serve(), [100.0]
    for member in (A, B, OTHER_MODEL, Member("decode", "d", "127.0.0.1:3", "here", b"1")):
        server.members.register(member, 600)
    with RemoteStore(server.address) as store:
        workers = PrefillWorkers(store, refresh=1.0, rest=3.0, clock=lambda: now[0])
        assert workers.reachable() and workers.best(SPEC, set()) == B
        assert workers.best(SPEC, {place(B)}) == A
        assert workers.best(SPEC, {place(A), place(B)}) is None
        with workers.asking(B), workers.asking(B):
            assert workers.best(SPEC, set()) == A
        workers.failed(B)
        assert workers.best(SPEC, set()) == A
        now[0] += 3.0
        assert workers.reachable() and workers.best(SPEC, set()) == B

        workers.failed(B)
        born_again = replace(B, incarnation=b"2")
        server.members.register(born_again, 600)
        assert workers.reachable() and workers.best(SPEC, set()) == A
        now[0] += 1.0
        assert workers.reachable() and workers.best(SPEC, set()) == born_again

        server.close(0)
        assert workers.reachable()
        now[0] += 1.0
        assert not workers.reachable()
        workers.close()


def test_requests_that_come_at_once_wait_for_the_first_answer(serve: Callable[..., Any]) -> None:
    """None of them may take the store for gone because another is asking it."""
    server = serve()
    with RemoteStore(server.address) as store, ThreadPoolExecutor(8) as requests:
        workers = PrefillWorkers(store, refresh=1.0, rest=3.0)
        asked = [requests.submit(workers.reachable) for _ in range(8)]
        assert all(each.result(5) for each in asked)
        workers.close()
