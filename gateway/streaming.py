"""An answer as server-sent events, which ends what it holds however it ends."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cachestore.errors import DeadlineExceeded
from gateway import answers
from gateway.answers import Completions
from gateway.conversation import Conversation
from gateway.errors import api_error
from gateway.text import Piece

Pieces = AsyncGenerator[tuple[int, Piece], None]

LAST = 1.0
"""Seconds behind a request's time in which its last events may go out."""


@dataclass(eq=False)
class Events:
    """The events of `conversation`, whose `first` piece has come out of `pieces`; `form` writes them.

    `held` is closed at the end. `each` is how many choices a prompt has.
    """

    conversation: Conversation
    form: Completions
    first: tuple[int, Piece]
    pieces: Pieces
    held: ExitStack
    each: int
    with_usage: bool
    begun: float = field(default_factory=time.monotonic)
    _over: bool = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        choices = self.conversation.choices
        try:
            for chunk in self.form.beginning(len(choices)):
                yield answers.event(chunk)
            at = [0] * len(choices)
            piece: tuple[int, Piece] | None = self.first
            while piece is not None:
                index, added = piece
                if added.text or added.told or added.finish:
                    yield answers.event(self.form.chunk(index, added, at[index]))
                at[index] += len(added.told.drawn.text if added.told else added.text)
                piece = await anext(self.pieces, None)
            if self.with_usage:
                yield answers.event(self.form.last(answers.usage(choices, self.each)))
            yield answers.DONE
        except Exception as error:
            self._over = True
            known = api_error(error)
            self.conversation.gateway.failed(known)
            yield answers.event(known.body)
        else:
            self._over = True
            self.conversation.done(self.begun)

    def late(self) -> None:
        """Counts it as out of time, if nothing else ended it: the client did not read it, and is told no more."""
        if not self._over:
            self._over = True
            self.conversation.gateway.failed(api_error(DeadlineExceeded("the answer was not read in time")))

    async def close(self) -> None:
        """Ends the generation if it has not ended."""
        if not self._over:
            self._over = True
            self.conversation.gateway.left()
        await self.pieces.aclose()
        self.held.close()


class EventStream(StreamingResponse):
    """Sends `events`; a client that leaves ends them, and so does one that reads too slowly for the request's time."""

    def __init__(self, events: Events) -> None:
        super().__init__(aiter(events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        in_time = asyncio.timeout(self._events.conversation.until + LAST - time.monotonic())
        try:
            async with in_time:
                await super().__call__(scope, receive, send)
        except TimeoutError:
            if not in_time.expired():
                raise
            self._events.late()
        finally:
            # also one that was never begun
            iterator: Any = self.body_iterator
            await iterator.aclose()
            await self._events.close()
