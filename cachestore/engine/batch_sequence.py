"""One request while the loop has it: its KV, its output so far, and where its tokens' KV came from."""

import time
from collections import Counter
from dataclasses import dataclass, field, replace

from cachestore.engine.batch_request import BatchProgress, BatchRequest, BatchToken, BatchUsage
from cachestore.engine.batch_stream import BatchStream
from cachestore.engine.drawing import Draw, Drawn
from cachestore.engine.fetching import Segment
from cachestore.engine.page_pool import Name
from cachestore.engine.paged_sequence import PagedSequence
from cachestore.engine.slot_put import SlotPut
from cachestore.engine.stopping import Finish, Stopping
from cachestore.errors import Aborted, CacheStoreError, DeadlineExceeded
from cachestore.scheduling.base import Demand
from cachestore.scheduling.predictor import Request

PROGRESS = 0.5
"""Seconds between two answers that say how far a prompt is."""
COMPUTED = ""
"""In place of a tier: the tokens were computed."""


@dataclass(eq=False)
class BatchSequence:
    """Belongs to the loop's thread once it was submitted. `longest` is the most tokens its output may have.

    `later` are the runs of blocks that are fetched when their turn comes, None while the store was not asked. The
    first `stored` blocks need not be put, `puts` are under way, and `followed` says that there was one slot by slot;
    `begun` that it is open, or needless.
    `came` and `again` count tokens by tier, or `COMPUTED`: those of the prompt when they came first, and whatever came
    again after a preemption.
    """

    number: int
    request: BatchRequest
    stream: BatchStream
    sequence: PagedSequence
    longest: int
    arrived: float = field(default_factory=time.monotonic)
    stopping: Stopping = field(init=False)
    guessed: int = 0
    predicted: int = 0
    later: list[Segment] | None = None
    fetching: bool = False
    ended: bool = False
    stored: int = 0
    puts: int = 0
    slot_put: SlotPut | None = None
    followed: bool = False
    begun: bool = False
    preempted: int = 0
    came: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    owed: BatchUsage | None = None
    _seen: int = 0
    _told: float = 0.0
    _first_ms: float = 0.0

    def __post_init__(self) -> None:
        stop = replace(self.request.stop, max_tokens=self.longest)
        self.stopping = Stopping(stop, self.request.decode or (lambda _: ""))

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.tokens)

    @property
    def generated(self) -> int:
        """Tokens of the output so far."""
        return len(self.stopping.tokens)

    @property
    def asked(self) -> Request:
        """What a predictor is told."""
        return Request(self.request.namespace, self.prompt_tokens, self.longest, self.request.expected)

    def demand(self, chunk_tokens: int) -> Demand:
        """What the scheduling policy is told."""
        chunks = -(-self.sequence.pending // chunk_tokens) - 1
        remaining = max(1, self.predicted - self.generated) + chunks
        return Demand(self.number, self.arrived, len(self.sequence.tokens), remaining)

    def over(self) -> CacheStoreError | None:
        """Why nobody waits for it any more, if so."""
        # first, since whoever waited for longer has given it up
        if time.monotonic() >= self.request.deadline.at:
            return DeadlineExceeded(f"the deadline passed after {self.generated} tokens")
        return Aborted("the request was given up") if self.stream.aborted else None

    @property
    def reused(self) -> dict[str, int]:
        """Tokens of the prompt that were not computed, by tier."""
        return {tier: tokens for tier, tokens in self.came.items() if tier != COMPUTED}

    @property
    def told(self) -> Drawn | None:
        """The first token, if another engine told it before it was drawn here."""
        return self.request.first.told if self.request.first is not None and not self.generated else None

    @property
    def waits(self) -> bool:
        """Whether it still makes sense to wait for blocks that another engine writes."""
        return self.request.first is None or not self.request.first.given_up

    @property
    def awaits(self) -> bool:
        """Whether its first token is another engine's to tell, since all full blocks of its prompt came from there."""
        first, size = self.request.first, self.sequence.spec.block_tokens
        if first is None or not first.pending or self.generated:
            return False
        whole = self.prompt_tokens // size * size
        return self.sequence.computed >= whole and self.came[COMPUTED] <= self.prompt_tokens - whole

    def begin(self) -> None:
        """Its blocks can be waited for; any thread may say so."""
        self.begun = True
        self.progress(0.0)

    def progress(self, seconds: float = PROGRESS) -> None:
        """Says how far the prompt is, if anybody wants to know and the last time was so many seconds ago."""
        now = time.monotonic()
        if self.request.by_slot and now - self._told >= seconds:
            self._told = now
            self.stream.give(BatchProgress(min(self._seen, self.prompt_tokens), self.begun))

    def next_block(self) -> Name | None:
        """The block that its next token belongs to; None behind the last full one."""
        index, keys = self.sequence.computed // self.sequence.spec.block_tokens, self.sequence.chain().keys
        return (self.sequence.namespace, keys[index]) if index < len(keys) else None

    def brought(self, first: int, end: int, tier: str) -> None:
        """The KV of the tokens from `first` up to `end` is here now."""
        fresh = min(end, self.prompt_tokens) - max(first, self._seen)
        if fresh > 0:
            self.came[tier] += fresh
        if first < self._seen:
            self.again[tier] += min(end, self._seen) - first
        self._seen = max(self._seen, end)

    def draw(self) -> Draw:
        """How its next token is drawn."""
        request = self.request
        return Draw(request.sampling, len(self.sequence.tokens), request.choice, request.logprobs)

    def add(self, drawn: Drawn) -> None:
        """Takes the next token and tells it to whoever asked; `stopping.finish` says whether it was the last."""
        text = self.stopping.add(drawn.token)
        if self.generated == 1:
            self._first_ms = (time.monotonic() - self.arrived) * 1000
        self.sequence.append(drawn.token)
        came = (self.came[COMPUTED], self.reused) if self.generated == 1 else ()
        self.stream.give(BatchToken(drawn.token, self.generated - 1, text, drawn.logprob, drawn.top, *came))

    def usage(self, finish: Finish) -> BatchUsage:
        """How it went."""
        return BatchUsage(
            self.prompt_tokens, self.generated, self.came[COMPUTED], self.reused, finish, self._first_ms, self.preempted
        )
