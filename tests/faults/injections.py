"""What a network does to the bytes of one direction, one class each; `proxy.Proxy.inject` applies them.

To add one: a subclass of `Injection` that counts in `acted` what it did. One that did nothing fails its test.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Flag


class Direction(Flag):
    """UP is from the client to the server."""

    UP = 1
    DOWN = 2
    BOTH = 3


UP, DOWN, BOTH = Direction.UP, Direction.DOWN, Direction.BOTH


class Reset(Exception):
    """The connection ends here with RST, once what went before has been sent."""


class End(Exception):
    """This direction ends here with FIN; the other goes on."""


class Lost(Exception):
    """What comes in this direction is lost from here on, and nobody is told."""


@dataclass(eq=False)
class Injection:
    """Leaves everything as it is. Offsets count the bytes of its direction from its beginning, over all connections."""

    direction: Direction = BOTH
    acted: int = field(default=0, init=False)
    passed: int = field(default=0, init=False)

    def delay(self) -> float:
        """Seconds by which the next piece comes later."""
        return 0.0

    def opened(self) -> None:
        """A client connected: Reset refuses it."""

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        """What becomes of the bytes that arrive now."""
        self.passed += len(data)
        yield data

    def end(self) -> None:
        """It is over; whatever it holds up goes on."""


@dataclass(eq=False)
class Latency(Injection):
    """Every piece comes `seconds` later, and up to `jitter` more; the order stays."""

    seconds: float = 0.05
    jitter: float = 0.0
    seed: int = 1
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def delay(self) -> float:
        self.acted += 1
        return self.seconds + self._random.random() * self.jitter


@dataclass(eq=False)
class Bandwidth(Injection):
    """No more than so many bytes a second, in each connection."""

    bytes_per_second: float = 1 << 20

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        await asyncio.sleep(len(data) / self.bytes_per_second)
        self.acted += 1
        yield data


@dataclass(eq=False)
class Stall(Injection):
    """From byte `at` on nothing is taken, and nothing is lost: all of it comes once this is over."""

    at: int = 0
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        before = max(0, self.at - self.passed)
        self.passed += len(data)
        if data[:before]:
            yield data[:before]
        if data[before:]:
            self.acted += 1
            await self._over.wait()
            yield data[before:]

    def end(self) -> None:
        self._over.set()


@dataclass(eq=False)
class BlackHole(Injection):
    """Swallows everything; a connection that lost bytes never comes back, since nobody sends them again."""

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        self.acted += 1
        raise Lost
        yield data  # a generator, like its base


@dataclass(eq=False)
class Refuse(Injection):
    """Nobody gets a connection."""

    def opened(self) -> None:
        self.acted += 1
        raise Reset


@dataclass(eq=False)
class Slicer(Injection):
    """Segments of `size` bytes."""

    size: int = 1

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(data), self.size):
            self.acted += 1
            yield data[at : at + self.size]


@dataclass(eq=False)
class AtByte(Injection):
    """Acts once, at byte `at`; with `every` again at every further multiple."""

    at: int = 0
    every: bool = False

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        while self.passed + len(data) > self._next() >= self.passed:
            before = self._next() - self.passed
            if before:
                yield data[:before]
            self.passed += before
            self.acted += 1
            there, data = await self._act(data[before:])
            self.passed += len(there)
            yield there
        self.passed += len(data)
        yield data

    def _next(self) -> int:
        if not self.acted or self.every:
            return self.at * (self.acted + 1) if self.every else self.at
        return -1

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        """What the first bytes become, and the bytes behind them."""
        raise NotImplementedError


@dataclass(eq=False)
class ResetAt(AtByte):
    """The connection is reset before this byte."""

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        raise Reset


@dataclass(eq=False)
class HalfCloseAt(AtByte):
    """This direction is closed before this byte; what comes after is lost."""

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        raise End


@dataclass(eq=False)
class FlipAt(AtByte):
    """One bit of this byte is wrong."""

    bit: int = 0

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        return bytes([data[0] ^ 1 << self.bit]), data[1:]


@dataclass(eq=False)
class DropAt(AtByte):
    """`length` bytes are missing, or as many of them as come in one piece."""

    length: int = 1

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        self.passed += len(data[: self.length])
        return b"", data[self.length :]


@dataclass(eq=False)
class DuplicateAt(AtByte):
    """`length` bytes come twice, or as many of them as come in one piece."""

    length: int = 1

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        return data[: self.length], data


@dataclass(eq=False)
class SpliceAt(AtByte):
    """Bytes of another stream, `other`, come in place of those here."""

    other: bytes = b""

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        there = self.other[: len(data)]
        return there, data[len(there) :]


@dataclass(eq=False)
class InsertAt(AtByte):
    """Bytes that nobody sent come before those here."""

    other: bytes = b""

    async def _act(self, data: bytes) -> tuple[bytes, bytes]:
        self.passed -= len(self.other)
        return self.other, data


@dataclass(eq=False)
class Record(Injection):
    """Remembers what went through."""

    heard: bytearray = field(default_factory=bytearray)

    async def through(self, data: bytes) -> AsyncIterator[bytes]:
        self.acted += 1
        self.heard += data
        yield data
