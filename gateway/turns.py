"""Places for what wants to run at the same time, of which some are given up where there were too many."""

import asyncio
from dataclasses import dataclass, field
from typing import Self


@dataclass(eq=False)
class Turns:
    """`places`, each taken inside the context; whoever finds none waits for one."""

    places: int
    _free: asyncio.Semaphore = field(init=False)
    _running: int = 0

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.places)

    async def __aenter__(self) -> Self:
        await self._free.acquire()
        self._running += 1
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._running -= 1
        self._free.release()

    async def another(self) -> bool:
        """Whoever holds a place could not use it: it is given up for good, and that of another one waited for.

        False, with nothing given up, if nobody else is running whose end would help.
        """
        if self._running == 1:
            return False
        self._running -= 1
        try:
            await self._free.acquire()
        finally:
            self._running += 1
        return True
