"""The decode workers there are, as the stores' cluster maps tell it, and what this gateway has under way at each."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import grpc

from cachestore.errors import CacheStoreError
from cachestore.service.auth.credentials import Credentials
from cachestore.service.channel import open_async_channel
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.status import error_of
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import DecodeWorkerStub
from gateway.keys import acting_for

MAP_TIMEOUT = 1.0
"""Seconds a store may take to tell the cluster map; it is one small message."""

MOST_SENT = 8192
"""Blocks remembered of what was sent to one worker."""

Place = tuple[str, bytes]
"""Address and incarnation: a worker that was started again is another one."""


@contextmanager
def errors(method: str, address: str) -> Iterator[None]:
    """Turns what gRPC raises inside into our errors."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error, method, address, "worker", "cachestore up") from error


@dataclass(eq=False)
class Worker:
    """One decode worker beside the store at `store`. `queue` is what it said last, when `mine` were ours."""

    member: Member
    store: str
    credentials: Credentials
    under_way: int = 0
    queue: int = 0
    mine: int = 0
    resting: float = 0.0
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
    async def generating(
        self, request: wire.GenerateRequest, tenant: str, timeout: float
    ) -> AsyncIterator[AsyncIterator[wire.GenerateResponse]]:
        """Its answers; leaving the context ends the request there."""
        if self._channel is None:
            self._channel = open_async_channel(self.member.address, self.credentials)
            self._stub = DecodeWorkerStub(self._channel)  # type: ignore[no-untyped-call]
        shown = acting_for(self.credentials, tenant).metadata(self.member.address)
        call = self._stub.Generate(request, timeout=timeout, metadata=shown)
        self.under_way += 1
        try:
            yield self._answers(call)
        finally:
            self.under_way -= 1
            call.cancel()

    async def _answers(self, call: Any) -> AsyncIterator[wire.GenerateResponse]:
        with errors("Generate", self.member.address):
            async for message in call:
                yield message

    async def close(self) -> None:
        """Ends its connection, and every request on it. Closing twice is allowed."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()


@dataclass(eq=False)
class Workers:
    """The decode workers of the spec `fingerprint`, in the cluster maps of the stores at `addresses`.

    The maps are asked again every `refresh` seconds. A store that does not answer leaves its workers as they were last
    known. A worker that failed rests for `rest` seconds, unless nobody else is there.
    """

    addresses: Sequence[str]
    fingerprint: bytes
    refresh: float
    rest: float
    credentials: Credentials = field(default_factory=Credentials.from_environment)
    _known: dict[Place, Worker] = field(default_factory=dict)
    _stores: list[RemoteStore] = field(default_factory=list)
    _task: "asyncio.Task[None] | None" = None

    async def open(self) -> None:
        """Asks once, then again and again. The stores need not be there yet."""
        self._stores = [RemoteStore(address, credentials=self.credentials) for address in self.addresses]
        for store in self._stores:
            store.open()
        await self._ask()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Ends every connection. Closing twice is allowed."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for worker in self._known.values():
            await worker.close()
        self._known = {}
        stores, self._stores = self._stores, []
        for store in stores:
            store.close()

    def all(self) -> list[Worker]:
        """Those that are known."""
        return list(self._known.values())

    def ready(self, but: set[int]) -> list[Worker]:
        """Those to choose from, none of `but`, which are ids of workers: all, if all of them just failed."""
        left = [worker for worker in self._known.values() if id(worker) not in but]
        now = time.monotonic()
        return [worker for worker in left if worker.resting <= now] or left

    def failed(self, worker: Worker) -> None:
        """Leaves this worker alone for a while."""
        worker.resting = time.monotonic() + self.rest

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.refresh)
            await self._ask()

    async def _ask(self) -> None:
        await asyncio.gather(
            *(self._ask_one(store, at) for store, at in zip(self._stores, self.addresses, strict=True))
        )

    async def _ask_one(self, store: RemoteStore, address: str) -> None:
        try:
            _, members = await asyncio.to_thread(store.members, "decode", timeout=MAP_TIMEOUT)
        except CacheStoreError:
            return
        ours = {
            (member.address, member.incarnation): member for member in members if member.fingerprint == self.fingerprint
        }
        for place, member in ours.items():
            if place not in self._known:
                self._known[place] = Worker(member, address, self.credentials)
            self._known[place].heard(member.queue)
        for place, worker in list(self._known.items()):
            if worker.store == address and place not in ours and not worker.under_way:
                del self._known[place]
                await worker.close()
