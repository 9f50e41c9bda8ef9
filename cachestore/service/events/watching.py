"""The server's side of a Watch: a snapshot where one is needed, then what happens, until the call's time is over.

A caller that is slow, or comes back, goes on behind the last event it has; if that is too long ago it gets a snapshot
again. Nothing is kept for it here but its place.
"""

from collections.abc import Callable, Iterator, Sequence

from cachestore.deadline import Deadline
from cachestore.store.events import Change, Event
from cachestore.store.following import Follower, Snapshot, joined
from cachestore.store.local import LocalStore
from cachestore.wire import store_pb2 as wire

WATCHERS = 16
"""Watches at once: each holds a thread of the server."""

HEARTBEAT = 1.0
"""Seconds after which a caller hears that nothing happened."""

MARGIN = 0.25
"""Seconds before the call's deadline at which the stream ends of itself, with all that was said."""

MESSAGE_KEYS = 1 << 14
"""Keys in one message at most."""

_EVENTS = {
    Change.STORED: wire.WatchResponse.STORED_BLOCKS,
    Change.REMOVED: wire.WatchResponse.REMOVED_BLOCKS,
    Change.CLEARED: wire.WatchResponse.CLEARED,
}


def watch(
    store: LocalStore, request: wire.WatchRequest, deadline: Deadline, on_end: Callable[[Callable[[], None]], bool]
) -> Iterator[wire.WatchResponse]:
    """The answers to one Watch. `on_end` takes what is to be called when the caller leaves, False if it has."""
    follower = Follower(store.tiered.events, store.namespace, request.epoch, request.sequence)
    # whoever goes on hears at once that it is heard
    wait = 0.0
    if not on_end(follower.end):
        return
    while (left := deadline.remaining() - MARGIN) > 0 and not follower.over:
        heard = follower.take(min(wait, left))
        wait = HEARTBEAT
        if isinstance(heard, Snapshot):
            yield from _snapshot(store, follower, heard)
        elif heard:
            yield from _events(follower, heard)
        else:
            yield _message(follower, wire.WatchResponse.ALIVE)


def _snapshot(store: LocalStore, follower: Follower, snapshot: Snapshot) -> Iterator[wire.WatchResponse]:
    tiered = store.tiered
    yield _message(
        follower,
        wire.WatchResponse.SNAPSHOT,
        tiers=[tiered.memory.name, *(tier.name for tier in tiered.lower)],
        node=tiered.settings.node,
    )
    for tier, fingerprint, keys in snapshot.contents:
        for start in range(0, len(keys), MESSAGE_KEYS):
            chain = _chain(fingerprint, keys[start : start + MESSAGE_KEYS])
            yield _message(follower, wire.WatchResponse.SNAPSHOT, chain=chain, tier=tier)
    yield _message(follower, wire.WatchResponse.SNAPSHOT, complete=True)


def _events(follower: Follower, events: Sequence[Event]) -> Iterator[wire.WatchResponse]:
    sequence = follower.sequence - len(events)
    for count, (change, tier, fingerprint, keys) in joined(events, MESSAGE_KEYS):
        sequence += count
        chain = _chain(fingerprint, keys) if keys else None
        yield wire.WatchResponse(epoch=follower.epoch, sequence=sequence, event=_EVENTS[change], chain=chain, tier=tier)


def _message(follower: Follower, event: "wire.WatchResponse.Event", **fields: object) -> wire.WatchResponse:
    return wire.WatchResponse(epoch=follower.epoch, sequence=follower.sequence, event=event, **fields)  # type: ignore[arg-type]


def _chain(fingerprint: bytes, keys: Sequence[bytes]) -> wire.Chain:
    return wire.Chain(fingerprint=fingerprint, keys=b"".join(keys))
