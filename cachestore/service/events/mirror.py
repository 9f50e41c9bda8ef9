"""A client's copy of a store's index: answers lookups without a call.

What it says may be out of date by the time it takes an event to arrive, and by `age` if the connection is broken. Reads
stay authoritative: a wrong answer costs a miss, and telling the mirror of it (`missed`) keeps it from costing another.
"""

import math
import time
from collections.abc import Iterator, Sequence
from threading import Event, Thread
from typing import Self

from cachestore.errors import CacheStoreError, InternalError
from cachestore.hashing import KEY_BYTES, Chain
from cachestore.service.connection import Connection
from cachestore.service.events.view import View
from cachestore.store.base import Lookup
from cachestore.wire import store_pb2 as wire

MOST_KEYS = 1 << 22
"""Keys that a mirror remembers: more than half a gigabyte."""

FRESH = 3.0
"""Seconds for which a mirror counts as current: two heartbeats may be late."""

PATIENCE = 3.0
"""Seconds after which a stream that says nothing is ended, and its connection with it."""

STREAM_SECONDS = 60.0
"""After so long a stream is begun anew, where it ended: what hangs, or is forbidden by now, does so no longer."""

PAUSES = (0.05, 1.0)
"""Seconds before it is tried again: at first, and at most."""

RENEW = 60.0
"""Seconds at least between two snapshots that are asked for because the mirror was wrong."""

_RESPONSE = wire.WatchResponse


class Mirror:
    """The index of the store at the other end of `connection`, as its identity may see it.

    The connection is the mirror's alone, which opens and closes it. With a `fingerprint` blocks of other specs are not
    remembered.
    """

    def __init__(self, connection: Connection, fingerprint: bytes = b"", *, most: int = MOST_KEYS) -> None:
        self.error: CacheStoreError | None = None
        """Why the stream broke last."""
        self._connection = connection
        self._fingerprint = fingerprint
        self._most = most
        self._view: View | None = None
        self._coming: View | None = None
        self._place = (0, 0)
        self._heard_at = -math.inf
        self._whole_at = -math.inf
        self._doubted = False
        self._whole = Event()
        self._over = Event()
        self._thread: Thread | None = None

    def open(self) -> None:
        """Begins to follow the store, which need not be there yet."""
        if self._thread is None:
            self._over.clear()
            self._connection.open()
            self._thread = Thread(target=self._follow, name="cachestore-mirror", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stops following. Closing twice is allowed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._over.set()
            self._connection.close()
            thread.join(PATIENCE)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def lookup(self, chain: Chain) -> Lookup:
        """How long the ready prefix of `chain` is, and where, as far as is known; blocks being written are not told."""
        view = self._view
        return view.lookup(chain) if view is not None else Lookup(0, ())

    def missed(self, keys: Sequence[bytes]) -> None:
        """A read did not find these blocks. They are not told of again before the store says that they are there."""
        view = self._view
        if view is not None and view.forget(keys):
            self._doubted = True

    def settle(self, timeout: float) -> bool:
        """Waits for the first snapshot; False if the time is over first."""
        return self._whole.wait(timeout)

    @property
    def age(self) -> float:
        """Seconds since the mirror was last known to be current; infinite while it knows nothing."""
        return time.monotonic() - self._heard_at if self._view is not None else math.inf

    @property
    def fresh(self) -> bool:
        """Whether it may be gone by."""
        return self.age < FRESH

    def __len__(self) -> int:
        view = self._view
        return len(view) if view is not None else 0

    def _follow(self) -> None:
        pause = PAUSES[0]
        while not self._over.is_set():
            try:
                for message in self._messages():
                    self._hear(message)
                    pause = PAUSES[0]
                    if self._doubted and time.monotonic() - self._whole_at > RENEW:
                        self._place, self._doubted = (0, 0), False
                        break
            except CacheStoreError as error:
                self.error = error
            self._coming = None
            self._over.wait(pause)
            pause = min(2 * pause, PAUSES[1])

    def _messages(self) -> Iterator[wire.WatchResponse]:
        epoch, sequence = self._place
        request = wire.WatchRequest(epoch=epoch, sequence=sequence)
        with self._connection.errors("Watch"):
            call = self._connection.watch(request, STREAM_SECONDS, PATIENCE)
            try:
                yield from call
            finally:
                call.cancel()

    def _hear(self, message: wire.WatchResponse) -> None:
        if message.event == _RESPONSE.SNAPSHOT:
            self._hear_snapshot(message)
        else:
            self._hear_event(message)
        if self._view is not None and self._coming is None:
            self._place = message.epoch, message.sequence
            self._heard_at = time.monotonic()

    def _hear_snapshot(self, message: wire.WatchResponse) -> None:
        if message.tiers:
            if self._view is not None and self._view.epoch != message.epoch:
                # another life of the store: nothing of what was known is there
                self._view = None
                self._place = (0, 0)
            self._coming = View(message.epoch, tuple(message.tiers), message.node, self._most, self._fingerprint)
        coming = self._coming
        if coming is None or coming.epoch != message.epoch:
            raise self._confused("a snapshot that has no beginning")
        coming.stored(message.tier, message.chain.fingerprint, self._keys(message.chain))
        if message.complete:
            self._view, self._coming = coming, None
            self._whole_at = time.monotonic()
            self._whole.set()

    def _hear_event(self, message: wire.WatchResponse) -> None:
        view = self._view
        if view is None or self._coming is not None or view.epoch != message.epoch:
            raise self._confused("events without a snapshot before them")
        chain, event = message.chain, message.event
        if event == _RESPONSE.STORED_BLOCKS:
            view.stored(message.tier, chain.fingerprint, self._keys(chain))
        elif event == _RESPONSE.REMOVED_BLOCKS:
            view.removed(message.tier, chain.fingerprint, self._keys(chain))
        elif event == _RESPONSE.CLEARED:
            view.cleared(message.tier)
        elif event != _RESPONSE.ALIVE or message.sequence != self._place[1]:
            raise self._confused("events that do not follow each other")

    def _keys(self, chain: wire.Chain) -> Iterator[bytes]:
        packed = chain.keys
        if len(packed) % KEY_BYTES:
            raise self._confused("keys that are not whole")
        return (packed[at : at + KEY_BYTES] for at in range(0, len(packed), KEY_BYTES))

    def _confused(self, what: str) -> InternalError:
        self._place = (0, 0)
        return InternalError(f"the store at {self._connection.address} sends {what}; a new snapshot is asked for")
