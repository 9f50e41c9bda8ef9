"""Members stay known while they beat, come back with the store, and leave."""

import time
from collections.abc import Callable
from typing import Any

from cachestore.service.client import RemoteStore
from cachestore.service.heartbeat import Heartbeat
from cachestore.service.members import Member

MEMBER = Member("prefill", "p", "127.0.0.1:1", "here", b"life")


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_member_beats_survives_the_store_and_leaves(serve: Callable[..., Any]) -> None:
    server = serve()
    queue = [0]
    with RemoteStore(server.address) as store:
        heartbeat = Heartbeat(store, MEMBER, lambda: queue[0], every=0.02, ttl=0.5)
        heartbeat.open()
        eventually(lambda: store.members()[1] == (MEMBER,))
        queue[0] = 3
        eventually(lambda: store.members()[1][0].queue == 3)
        port = int(server.address.rpartition(":")[2])
        server.close(0)
        again = serve(port)
        eventually(lambda: again.members.list()[1])
        heartbeat.close()
        assert again.members.list()[1] == ()
        heartbeat.close()


def test_nobody_waits_for_a_store_that_is_away() -> None:
    with RemoteStore("127.0.0.1:9") as store:
        heartbeat = Heartbeat(store, MEMBER, lambda: 0)
        started = time.monotonic()
        heartbeat.open()
        heartbeat.close()
        assert time.monotonic() - started < 3
