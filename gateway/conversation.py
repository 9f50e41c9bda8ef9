"""The choices of one request, generated at the same time, as one stream of what each token adds."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from cachestore.errors import Overloaded
from gateway.gateway import Gateway
from gateway.generating import PAUSE
from gateway.keys import Asker
from gateway.prompts import Asked
from gateway.text import Choice, Piece
from gateway.turns import Turns

AT_ONCE = 8
"""Choices of one request that are generated at the same time, at most; fewer where the workers take no more."""


@dataclass(eq=False)
class Conversation:
    """`choices`, asked for by `asker`, by `until` of the monotonic clock."""

    gateway: Gateway
    asker: Asker
    asked: list[Asked]
    until: float
    choices: list[Choice] = field(init=False)

    def __post_init__(self) -> None:
        self.choices = [Choice(self.gateway.served, each) for each in self.asked]

    def done(self, begun: float) -> None:
        """Counts it as answered; it came in at `begun` of the monotonic clock."""
        add = self.gateway.counters.add
        add("requests_done")
        add("prompt_tokens", sum(len(choice.asked.tokens) for choice in self.choices))
        add("cached_tokens", sum(choice.cached for choice in self.choices))
        add("generated_tokens", sum(choice.count for choice in self.choices))
        self.gateway.counters.took("request", time.monotonic() - begun)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Which choice, and what is added to it. The first failure of one ends them all."""
        tenant = self.gateway.keys.token(self.asker)
        if len(self.choices) == 1:
            async with aclosing(self._alone(self.choices[0], tenant)) as one:
                async for piece in one:
                    yield 0, piece
            return
        queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(1)
        turns = Turns(AT_ONCE)

        async def feed(index: int) -> None:
            try:
                async with turns, aclosing(self._in_turn(self.choices[index], tenant, turns)) as one:
                    async for piece in one:
                        await queue.put((index, piece))
            except Exception as error:
                await queue.put((index, error))
            else:
                await queue.put((index, None))

        tasks = [asyncio.create_task(feed(index)) for index in range(len(self.choices))]
        try:
            left = len(tasks)
            while left:
                index, added = await queue.get()
                if isinstance(added, Exception):
                    raise added
                if added is None:
                    left -= 1
                else:
                    yield index, added
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _alone(self, choice: Choice, tenant: str) -> AsyncGenerator[Piece, None]:
        return self.gateway.generating.pieces(choice, self.asker, tenant, self.until)

    async def _in_turn(self, choice: Choice, tenant: str, turns: Turns) -> AsyncGenerator[Piece, None]:
        """The same, also where the workers do not take all choices at once: then when another one has ended.

        Others may take the place that one left. What is made already is not thrown away for that: it is tried again
        until the request's time is over.
        """
        while True:
            try:
                async with aclosing(self._alone(choice, tenant)) as one:
                    async for piece in one:
                        yield piece
                return
            except Overloaded:
                if choice.count:
                    raise
                if not await turns.another():
                    if not any(each.count for each in self.choices):
                        raise
                    await asyncio.sleep(PAUSE)
