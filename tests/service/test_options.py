"""What both ends agree on: bounds, and how soon a peer that froze is noticed."""

import signal
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from cachestore.errors import Unavailable
from cachestore.service.client import RemoteStore
from cachestore.service.options import CLIENT, SERVER


def test_metadata_has_a_bound(channel: grpc.Channel) -> None:
    lookup = channel.unary_unary("/cachestore.v1.CacheStore/Stats")
    assert lookup(b"", timeout=5, metadata=(("x-much", "m" * (8 << 10)),)) is not None
    with pytest.raises(grpc.RpcError) as refused:
        lookup(b"", timeout=5, metadata=(("x-much", "m" * (17 << 10)),))
    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
    assert lookup(b"", timeout=5) is not None


def test_a_client_may_ping_as_often_as_it_does() -> None:
    client, server = dict(CLIENT), dict(SERVER)
    assert int(client["grpc.keepalive_time_ms"]) > int(server["grpc.http2.min_ping_interval_without_data_ms"])
    # each says the same of what it takes, or one would send what the other refuses
    for name in ("grpc.max_receive_message_length", "grpc.max_send_message_length", "grpc.max_metadata_size"):
        assert client[name] == server[name] != -1
    # one attempt to connect, and the pause behind it
    assert (client["grpc.initial_reconnect_backoff_ms"], client["grpc.max_reconnect_backoff_ms"]) == (100, 1_000)


@pytest.mark.slow
def test_a_frozen_store_is_noticed_long_before_the_deadline(process: Callable[..., Any]) -> None:
    server = process()
    with RemoteStore(server.address) as store:
        store.stats()
        server.popen.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            store.stats(timeout=30)
        # keepalive and its time-out, and no second try, which would find it frozen too
        assert time.monotonic() - begun < 5.0
        server.popen.send_signal(signal.SIGCONT)
        until = time.monotonic() + 5.0
        while True:
            try:
                store.stats(timeout=1)
                return
            except Unavailable:
                assert time.monotonic() < until
