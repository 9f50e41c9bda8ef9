"""Cuts off whoever moves nothing: a reader that takes no message, a writer that sends none.

gRPC takes one message of a stream at a time, and asks for the next once the peer has made room. So a handler that waits
there, or for a request, for longer than `service.stall` waits for a peer that stands still. Its call is cancelled: that
wakes the handler, which gives back what it holds. One thread looks after all streams.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TypeVar, cast

import grpc

from cachestore.metrics import Counters

LOOKS = 8
"""How often each stream is looked at within the time it may stand still."""

T = TypeVar("T")


@dataclass(eq=False)
class Peer:
    """The other end of a stream. It is waited for `since` then, in monotonic seconds: never, if it is not."""

    cut: Callable[[], object]
    since: float = math.inf
    back: float = -math.inf
    """When it had last something to do elsewhere; infinite while it has."""

    def sent(self, messages: Iterator[T]) -> Iterator[T]:
        """The messages of a generator, each to be taken in time."""
        with closing(cast("Generator[T, None, None]", messages)):
            for message in messages:
                self.since = time.monotonic()
                yield message
                self.since = math.inf

    def received(self, messages: Iterator[T]) -> Iterator[T]:
        """The messages, each to come in time."""
        while True:
            self.since = time.monotonic()
            message = next(messages, None)
            self.since = math.inf
            if message is None:
                return
            yield message

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """For as long as the context lasts it need not send anything here: its payload travels another way."""
        self.back = math.inf
        try:
            yield
        finally:
            self.back = time.monotonic()


@dataclass(eq=False)
class Stalls:
    """Looks after streams whose peers may stand still for `seconds`; `counters` tells how many were cut."""

    seconds: float
    counters: Counters = field(default_factory=Counters)
    _peers: dict[int, Peer] = field(default_factory=dict)
    _over: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def open(self) -> None:
        """Starts looking."""
        self._over.clear()
        self._thread = Thread(target=self._look, name="cachestore-stalls", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops looking. Closing twice is allowed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._over.set()
            thread.join()

    @contextmanager
    def watched(self, context: grpc.ServicerContext) -> Iterator[Peer]:
        """The peer of a call, looked after for as long as the context lasts."""
        peer = Peer(context.cancel)
        self._peers[id(peer)] = peer
        try:
            yield peer
        finally:
            del self._peers[id(peer)]

    def _look(self) -> None:
        while not self._over.wait(self.seconds / LOOKS):
            latest = time.monotonic() - self.seconds
            for peer in list(self._peers.values()):
                if max(peer.since, peer.back) < latest:
                    peer.since = math.inf
                    self.counters.add("calls_stalled")
                    peer.cut()
