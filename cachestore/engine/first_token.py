"""The first token of a request, drawn by an engine that computes the same prompt elsewhere.

Draws are keyed by seed and position, so it is the token that would be drawn here: whoever is first says it.
"""

from collections.abc import Callable

from cachestore.engine.drawing import Drawn


class FirstToken:
    """Of one request; any thread may tell it or give it up. What is said again, or too late, changes nothing."""

    def __init__(self) -> None:
        self.told: Drawn | None = None
        self.given_up = False
        self._wake: Callable[[], None] = lambda: None

    @property
    def pending(self) -> bool:
        """Whether it may still be told."""
        return self.told is None and not self.given_up

    def tell(self, token: int, logprob: float | None = None, top: tuple[tuple[int, float], ...] = ()) -> None:
        """It goes to the stream at once, also while blocks of the prompt are still being read."""
        if self.told is None:
            self.told = Drawn(token, logprob, top)
            self._wake()

    def give_up(self) -> None:
        """Nobody will tell it, and nobody writes blocks to wait for: a read that waits is cut short."""
        self.given_up = True
        self._wake()

    def listen(self, wake: Callable[[], None]) -> None:
        """From now on `wake` is called when there is something new."""
        self._wake = wake
