"""One decode worker: what is known of it, what this gateway has under way there, and how it is asked."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import grpc

from cachestore.errors import CacheStoreError, Unavailable
from cachestore.service.auth.credentials import Credentials
from cachestore.service.channel import open_async_channel
from cachestore.service.members import Member
from cachestore.service.status import error_of
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import DecodeWorkerStub
from gateway.keys import acting_for

MOST_SENT = 8192
"""Blocks remembered of what was sent to one worker."""


@contextmanager
def errors(method: str, address: str) -> Iterator[None]:
    """Turns what gRPC raises inside into our errors."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error, method, address, "worker", "cachestore up") from error


@dataclass(eq=False)
class Stream:
    """The answers to one request as they come; `begun` says whether there was one.

    `since` is when the next one began to be waited for, None while nobody waits. `stop` has the worker end the
    request well.
    """

    call: Any
    address: str
    stop: Callable[[], Awaitable[object]]
    since: float | None = field(default_factory=time.monotonic)
    begun: bool = False
    _cut: bool = False

    def cut(self) -> None:
        """Ends it as Unavailable for whoever reads: the worker has been silent for too long."""
        self._cut = True
        self.call.cancel()

    async def settled(self, answers: AsyncIterator[object], seconds: float, *, stopped: bool) -> None:
        """Waits for the rest of `answers`, behind which the worker has stored what it made, for so long at most.

        Unless it `stopped`, it is told to.
        """
        # whether it worked changes nothing in the answer
        with suppress(CacheStoreError, TimeoutError):
            async with asyncio.timeout(seconds):
                if not stopped:
                    with errors("Abort", self.address):
                        await self.stop()
                async for _ in answers:
                    pass

    async def answers(self) -> AsyncGenerator[wire.GenerateResponse, None]:
        """Once. Our errors, and Unavailable where it was cut."""
        try:
            with errors("Generate", self.address):
                async for message in self.call:
                    # how long the reader takes with it is no silence of the worker's
                    self.since, self.begun = None, True
                    yield message
                    self.since = time.monotonic()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._cut or (task is not None and task.cancelling()):
                raise
            raise Unavailable(f"the worker at {self.address} has fallen silent") from None


@dataclass(eq=False)
class Worker:
    """One decode worker beside the store at `store`. `queue` is what it said last, when `mine` were ours.

    `there` says whether the cluster map has it still: one that is going, or gone, is asked no more.
    """

    member: Member
    store: str
    credentials: Credentials
    under_way: int = 0
    queue: int = 0
    mine: int = 0
    resting: float = 0.0
    there: bool = True
    _streams: set[Stream] = field(default_factory=set)
    _sent: OrderedDict[tuple[str, bytes], None] = field(default_factory=OrderedDict)
    _channel: Any = None
    _stub: Any = None

    @property
    def load(self) -> int:
        """Requests that wait or run there: its own count, and what was sent since."""
        return max(self.queue + self.under_way - self.mine, self.under_way)

    def heard(self, queue: int) -> None:
        """The cluster map says how long its queue is."""
        self.queue, self.mine = queue, self.under_way

    def sent(self, namespace: str, keys: Sequence[bytes]) -> int:
        """How many blocks at the beginning of `keys` went through it lately."""
        return sum(1 for _ in takewhile(lambda key: (namespace, key) in self._sent, keys))

    def remember(self, namespace: str, keys: Iterable[bytes]) -> None:
        """These blocks go through it now."""
        for key in keys:
            self._sent[namespace, key] = None
            self._sent.move_to_end((namespace, key))
        while len(self._sent) > MOST_SENT:
            self._sent.popitem(last=False)

    @asynccontextmanager
    async def generating(self, request: wire.GenerateRequest, tenant: str, timeout: float) -> AsyncIterator[Stream]:
        """Its answers; leaving the context ends the request there."""
        if self._channel is None:
            self._channel = open_async_channel(self.member.address, self.credentials)
            self._stub = DecodeWorkerStub(self._channel)  # type: ignore[no-untyped-call]
        stub, shown = self._stub, acting_for(self.credentials, tenant).metadata(self.member.address)

        async def stop() -> None:
            over = wire.AbortWorkRequest(request_id=request.request_id, finish=True)
            await stub.Abort(over, timeout=timeout, metadata=shown)

        stream = Stream(stub.Generate(request, timeout=timeout, metadata=shown), self.member.address, stop)
        self._streams.add(stream)
        self.under_way += 1
        try:
            yield stream
        finally:
            self.under_way -= 1
            self._streams.discard(stream)
            stream.call.cancel()

    def cut_silent(self, seconds: float) -> None:
        """Gives requests up that have waited for an answer for so long.

        One that waits for its first token may wait for its turn, unless the worker has left the cluster map.
        """
        before = time.monotonic() - seconds
        for stream in list(self._streams):
            if stream.since is not None and stream.since < before and (stream.begun or not self.there):
                stream.cut()

    async def close(self) -> None:
        """Ends its connection, and every request on it. Closing twice is allowed."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()
