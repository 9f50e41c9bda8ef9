"""Events of one namespace as vLLM 0.33 publishes its own (`vllm/distributed/kv_events.py`, `ZmqEventPublisher`).

A message is three frames: the topic, its number from 0 on as 8 bytes big-endian, and a msgpack array of the time in
seconds since 1970, the events and the rank. Whoever missed some asks the replay socket with the number of the first
one, and gets an empty frame before each of them, and at last a message with no topic, number -1 and no payload.

1. A block's hash is its key. Tokens are not stored, so `token_ids` is empty, as vLLM has it for what it offloads.
2. What leads to a block and how many tokens it has is told where memory still knows it.
3. Whenever the follower must begin with a snapshot, and whenever a tier was emptied, everything is cleared and told
   anew: the format has no word for less.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread
from typing import Any

import msgspec
import zmq

from cachestore.errors import ConfigError
from cachestore.index import Name
from cachestore.seal import CorruptBlock, Header
from cachestore.service.events.kv_events import KvEvents
from cachestore.store.events import Change, Content, Event
from cachestore.store.following import Follower, Snapshot, joined
from cachestore.store.local import LocalStore

TICK = 0.1
"""Seconds after which it is looked whether somebody asks for a replay."""

MESSAGE_EVENTS = 1024
MESSAGE_KEYS = 4096
"""Events in one message, and blocks in one event, at most."""

LAST = (-1).to_bytes(8, "big", signed=True)

_MEDIA = {"gpu": "GPU", "cpu": "CPU"}
"""vLLM's words; everything below memory is STORAGE to it, and `ownership` says which."""


class BlockStored(msgspec.Struct, omit_defaults=True, tag=True):
    """Blocks of one chain, one behind the other, that are in a tier now."""

    block_hashes: Sequence[bytes]
    parent_block_hash: bytes | None
    token_ids: Sequence[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    ownership: str | None = None


class BlockRemoved(msgspec.Struct, omit_defaults=True, tag=True):
    """Blocks that are not in a tier any more."""

    block_hashes: Sequence[bytes]
    medium: str | None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, omit_defaults=True, tag=True):
    """Nothing is anywhere."""


class Batch(msgspec.Struct, array_like=True, omit_defaults=True):
    """One message."""

    ts: float
    events: Sequence[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


@dataclass(eq=False)
class Publisher:
    """Tells the events of `store` while it is open."""

    store: LocalStore
    settings: KvEvents
    _sent: deque[tuple[int, bytes]] = field(init=False)
    _next: int = 0
    _pack: msgspec.msgpack.Encoder = field(default_factory=msgspec.msgpack.Encoder)
    _context: "zmq.Context[Any] | None" = None
    _out: Any = None
    _replay: Any = None
    _over: Flag = field(default_factory=Flag)
    _thread: Thread | None = None

    def __post_init__(self) -> None:
        self._sent = deque(maxlen=self.settings.buffer)

    @property
    def endpoint(self) -> str:
        """Where subscribers find it; only while it is open."""
        return _address(self._out)

    @property
    def replay(self) -> str:
        """Where messages can be asked for again; only while it is open."""
        return _address(self._replay)

    def open(self) -> None:
        """Takes the addresses and begins. ConfigError if one of them cannot be had."""
        self._context = zmq.Context()
        self._out = self._bound(zmq.PUB, "endpoint")
        # a whole replay and its end must fit, or its asker waits for an end that was dropped
        self._replay = self._bound(zmq.ROUTER, "replay", 2 * (self.settings.buffer + 1))
        self._over.clear()
        self._thread = Thread(target=self._run, name="cachestore-kv-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops. Closing twice is allowed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._over.set()
            thread.join()
        context, self._context = self._context, None
        if context is not None:
            context.destroy(linger=0)

    def __enter__(self) -> "Publisher":
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _bound(self, kind: int, name: str, backlog: int = 0) -> Any:
        address = getattr(self.settings, name)
        if not address:
            return None
        assert self._context is not None
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, backlog or self.settings.backlog)
        socket.setsockopt(zmq.IPV6, "[" in address)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"kv_events.{name}: cannot listen at {address} ({error}); choose another") from error
        return socket

    def _run(self) -> None:
        follower = Follower(self.store.tiered.events, self.store.namespace)
        while not self._over.is_set():
            heard = follower.take(TICK)
            if not isinstance(heard, Snapshot) and any(event.change is Change.CLEARED for event in heard):
                follower.lose()
                heard = follower.take(0.0)
            events = self._all(heard) if isinstance(heard, Snapshot) else self._changes(heard)
            batch: list[BlockStored | BlockRemoved | AllBlocksCleared] = []
            for event in events:
                batch.append(event)
                if len(batch) == MESSAGE_EVENTS:
                    self._send(batch)
                    batch = []
            if batch:
                self._send(batch)
            if self._replay is not None and self._replay.poll(0):
                self._answer()

    def _send(self, events: Sequence[BlockStored | BlockRemoved | AllBlocksCleared]) -> None:
        payload = self._pack.encode(Batch(time.time(), events, 0))
        self._sent.append((self._next, payload))
        self._out.send_multipart((self.settings.topic.encode(), self._next.to_bytes(8, "big"), payload))
        self._next += 1

    def _answer(self) -> None:
        frames = self._replay.recv_multipart()
        if len(frames) != 3 or len(frames[2]) != 8:
            return
        asker, _, first = frames
        for number, payload in self._sent:
            if number >= int.from_bytes(first, "big"):
                self._replay.send_multipart(
                    (asker, b"", self.settings.topic.encode(), number.to_bytes(8, "big"), payload)
                )
        self._replay.send_multipart((asker, b"", b"", LAST, b""))

    def _all(self, snapshot: Snapshot) -> Iterator[BlockStored | AllBlocksCleared]:
        yield AllBlocksCleared()
        for content in snapshot.contents:
            yield from self._stored(content)

    def _changes(self, events: Sequence[Event]) -> Iterator[BlockStored | BlockRemoved]:
        for _, event in joined(events, MESSAGE_KEYS):
            if event.change is Change.STORED:
                yield from self._stored(Content(*event[1:]))
            else:
                yield BlockRemoved(event.keys, *_place(event.tier))

    def _stored(self, content: Content) -> Iterator[BlockStored]:
        medium, owner = _place(content.tier)
        chain: list[bytes] = []
        before: bytes | None = None
        size = 0
        for key in content.keys:
            parent, tokens = self._known(key)
            if chain and (parent != chain[-1] or tokens != size):
                yield BlockStored(chain, before, (), size, None, medium, None, owner)
                chain = []
            if not chain:
                before, size = parent, tokens
            chain.append(key)
        if chain:
            yield BlockStored(chain, before, (), size, None, medium, None, owner)

    def _known(self, key: bytes) -> tuple[bytes | None, int]:
        """The key before this one and how many tokens the block has; None and 0 if memory does not have it."""
        index = self.store.tiered.index
        with index.changed:
            entry = index.get(Name(self.store.namespace, key))
            if entry is None or not entry.ready:
                return None, 0
            try:
                return entry.parent, Header.parse(entry.slot.bytes).token_count
            except CorruptBlock:
                # whoever reads it finds out, and counts it
                return None, 0


def _place(tier: str) -> tuple[str, str | None]:
    medium = _MEDIA.get(tier)
    return (medium, None) if medium else ("STORAGE", tier)


def _address(socket: Any) -> str:
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
