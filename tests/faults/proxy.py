"""A proxy that does to the bytes between a client and a server what networks do, on command.

It stands before gRPC and before Redis, on TCP or on unix sockets, and runs in a thread of its own.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Self, TypeVar

from tests.faults.flow import Link, place
from tests.faults.injections import Injection, Reset

T = TypeVar("T", bound=Injection)

BACKLOG = 1024


class Proxy:
    """Passes connections at `address` on to `target`; both are `host:port` or `unix:/path`."""

    def __init__(self, target: str, listen: str = "127.0.0.1:0") -> None:
        self._target = place(target)
        self._listen = place(listen)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._listener: socket.socket
        self._accepting: asyncio.Task[None]
        self._links: set[asyncio.Task[None]] = set()
        self.injections: tuple[Injection, ...] = ()
        self.address = ""
        self.connections = 0
        """How many clients connected."""

    def open(self) -> None:
        """Listens."""
        self._listener = socket.socket(self._listen.family)
        self._listener.setblocking(False)
        self._listener.bind(self._listen.address)
        self._listener.listen(BACKLOG)
        name = self._listener.getsockname()
        self.address = f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def close(self) -> None:
        """Resets what is open and ends."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.close()
        self._listener.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def inject(self, injection: T) -> Iterator[T]:
        """Does this to everything that comes through meanwhile; an injection that did nothing is an error."""
        self.begin(injection)
        try:
            yield injection
        finally:
            self.end(injection)
        assert injection.acted, f"{injection} did nothing"

    def begin(self, injection: Injection) -> None:
        """Does this from now on."""
        self.injections = (*self.injections, injection)

    def end(self, injection: Injection) -> None:
        """Does it no more."""
        self.injections = tuple(one for one in self.injections if one is not injection)
        self._loop.call_soon_threadsafe(injection.end)

    def reset(self) -> int:
        """Resets every connection that is open now; how many there were."""

        async def all_of_them() -> int:
            links = list(self._links)
            for link in links:
                link.cancel()
            await asyncio.gather(*links, return_exceptions=True)
            return len(links)

        return asyncio.run_coroutine_threadsafe(all_of_them(), self._loop).result(10)

    async def _start(self) -> None:
        self._accepting = self._loop.create_task(self._accept())

    async def _end(self) -> None:
        tasks = [self._accepting, *self._links]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.connections += 1
            task = self._loop.create_task(self._serve(client))
            self._links.add(task)
            task.add_done_callback(self._links.discard)

    async def _serve(self, client: socket.socket) -> None:
        link = Link(self, client, self._target)
        ended = False
        try:
            for injection in self.injections:
                injection.opened()
            await link.run()
            ended = True
        except (Reset, OSError):
            pass
        finally:
            link.close(reset=not ended)
