"""What a mirror does with streams that hang or make no sense, and how the copy it makes of them answers."""

import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.hashing import Chain
from cachestore.service.connection import Connection
from cachestore.service.events import mirror as mirrors
from cachestore.service.events.mirror import Mirror
from cachestore.service.events.view import View
from cachestore.service.stream.watchdog import Watched
from cachestore.testing import random_prompt, small_spec
from cachestore.wire import store_pb2 as wire

CHAIN, _ = random_prompt(small_spec(), 12)
FOREIGN = Chain(bytes(32), CHAIN.keys)
SOON = 10.0


def message(**fields: Any) -> wire.WatchResponse:
    return wire.WatchResponse(epoch=7, **fields)


@pytest.mark.parametrize(
    "messages",
    [
        [message(event=wire.WatchResponse.STORED_BLOCKS, tier="cpu", sequence=1)],
        [message(event=wire.WatchResponse.SNAPSHOT, complete=True)],
        [message(tiers=["cpu"]), message(event=wire.WatchResponse.ALIVE)],
        [message(tiers=["cpu"]), message(chain=wire.Chain(keys=b"x" * 33), tier="cpu")],
        [message(tiers=["cpu"], complete=True, sequence=4), message(event=wire.WatchResponse.ALIVE, sequence=6)],
        [message(tiers=["cpu"], complete=True), wire.WatchResponse(epoch=8, event=wire.WatchResponse.CLEARED)],
        [message(tiers=["cpu"], complete=True), message(event=99)],
    ],
)
def test_a_stream_that_makes_no_sense_is_begun_anew(messages: list[wire.WatchResponse]) -> None:
    asked: list[wire.WatchRequest] = []

    class Confusing(Connection):
        """Says the same every time."""

        def watch(self, request: wire.WatchRequest, timeout: float, patience: float) -> Any:
            asked.append(request)
            return Messages(messages)

    with Mirror(Confusing("127.0.0.1:1")) as mirror:
        until = time.monotonic() + SOON
        while len(asked) < 3 and time.monotonic() < until:
            time.sleep(0.005)
    assert mirror.error is not None and "snapshot is asked for" in str(mirror.error)
    assert [(request.epoch, request.sequence) for request in asked[:3]] == [(0, 0)] * 3


class Counting(Connection):
    """Counts its calls."""

    calls = 0

    def watch(self, request: wire.WatchRequest, timeout: float, patience: float) -> Watched:
        self.calls += 1
        return super().watch(request, timeout, patience)


def test_a_stream_that_hangs_is_given_up_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "PATIENCE", 0.2)
    # whoever connects hears nothing
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = Counting(f"127.0.0.1:{silent.getsockname()[1]}")
        with Mirror(connection) as mirror:
            until = time.monotonic() + SOON
            while connection.calls < 3 and time.monotonic() < until:
                time.sleep(0.01)
            assert connection.calls >= 3 and not mirror.fresh
            assert "replaced" in str(mirror.error)


class Messages:
    """A call that answers these."""

    def __init__(self, messages: Iterable[wire.WatchResponse]) -> None:
        self._messages = messages

    def __iter__(self) -> Iterator[wire.WatchResponse]:
        return iter(self._messages)

    def cancel(self) -> None:
        """There is nothing to cancel."""


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stored", "removed", "cleared", "forget"]),
            st.sampled_from(["cpu", "disk", "redis", "drum"]),
            st.sets(st.integers(0, 7)),
        )
    )
)
def test_a_view_answers_as_its_tiers_would(history: list[tuple[str, str, set[int]]]) -> None:
    view = View(1, ("cpu", "disk", "redis"), "node", 1 << 20)
    held: dict[str, set[int]] = {"cpu": set(), "disk": set(), "redis": set(), "drum": set()}
    for what, tier, numbers in history:
        keys = [CHAIN.keys[number] for number in numbers]
        if what == "stored":
            view.stored(tier, CHAIN.fingerprint, keys)
            held[tier] |= numbers
        elif what == "removed":
            view.removed(tier, CHAIN.fingerprint, keys)
            held[tier] -= numbers
        elif what == "cleared":
            view.cleared(tier)
            held[tier].clear()
        else:
            assert view.forget(keys) == any(numbers & held[tier] for tier in ("cpu", "disk", "redis"))
            for one in held.values():
                one -= numbers
    found = view.lookup(CHAIN)
    ready = sum(run.blocks for run in found.runs)
    tiers = list(np.repeat([run.tier for run in found.runs], [run.blocks for run in found.runs]))
    assert found.ready == ready
    assert all(number in held[tier] for number, tier in enumerate(tiers))
    assert all(tier == "cpu" for number, tier in enumerate(tiers) if number in held["cpu"])
    everywhere = held["cpu"] | held["disk"]
    if not held["redis"]:
        assert ready == next((number for number in range(12) if number not in everywhere), 12)
    assert view.lookup(FOREIGN).ready <= ready
