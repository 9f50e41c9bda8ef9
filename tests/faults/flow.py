"""One connection through the proxy: two directions, each of which passes its injections in order."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.injections import DOWN, UP, Direction, End, Injection, Lost, Reset

if TYPE_CHECKING:
    from tests.faults.proxy import Proxy

CHUNK = 16 << 10
DEPTH = 256
"""Pieces that may be under way in one direction."""

RST = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing resets."""


class Place(NamedTuple):
    """Where to connect or listen."""

    family: socket.AddressFamily
    address: str | tuple[str, int]


def place(text: str) -> Place:
    """What `host:port` or `unix:/path` says."""
    if text.startswith("unix:"):
        return Place(socket.AF_UNIX, text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    return Place(socket.AF_INET, (host, int(port)))


class Link:
    """A client and the server it reached."""

    def __init__(self, proxy: "Proxy", client: socket.socket, target: Place) -> None:
        self._proxy = proxy
        self._client = client
        self._target = target
        self._server = socket.socket(target.family)

    async def run(self) -> None:
        """Passes bytes until both directions have ended; Reset or OSError if the connection breaks."""
        for one in (self._client, self._server):
            one.setblocking(False)
            if one.family != socket.AF_UNIX:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(self._server, self._target.address)
        flows = (Flow(self._proxy, self._client, self._server, UP), Flow(self._proxy, self._server, self._client, DOWN))
        tasks = [asyncio.ensure_future(part) for flow in flows for part in (flow.take(), flow.give())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self, reset: bool) -> None:
        """Ends both halves, with RST if they are to break off. Nobody may wait for them any more."""
        for one in (self._client, self._server):
            if reset and one.family != socket.AF_UNIX:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            one.close()


class Flow:
    """One direction of one connection."""

    def __init__(self, proxy: "Proxy", source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        self._proxy = proxy
        self._source = source
        self._sink = sink
        self._direction = direction
        self._due = 0.0
        self._waiting: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(DEPTH)
        self._lost = False

    async def take(self) -> None:
        """Takes what the source sends and passes it through the injections."""
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._source, CHUNK):
                chosen = [one for one in self._proxy.injections if self._direction in one.direction]
                self._due = max(self._due, loop.time() + sum(one.delay() for one in chosen))
                await self._through(data, chosen)
        except Reset:
            await self._waiting.join()
            raise
        except End:
            await self._waiting.put(None)
            await self._swallow()
        except Lost:
            await self._swallow()
            self._lost = True
            await self._waiting.put(None)
        else:
            await self._waiting.put(None)

    async def give(self) -> None:
        """Sends it on when it is due."""
        loop = asyncio.get_running_loop()
        while piece := await self._waiting.get():
            due, data = piece
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            await loop.sock_sendall(self._sink, data)
            self._waiting.task_done()
        if not self._lost:
            self._sink.shutdown(socket.SHUT_WR)

    async def _through(self, data: bytes, injections: Sequence[Injection]) -> None:
        if not data:
            return
        if not injections:
            await self._waiting.put((self._due, data))
            return
        async for piece in injections[0].through(data):
            await self._through(piece, injections[1:])

    async def _swallow(self) -> None:
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(self._source, CHUNK):
            pass
