"""What is asked of the serving loop, and what comes back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cachestore.deadline import Deadline
from cachestore.engine.first_token import FirstToken
from cachestore.engine.sampling import Sampling
from cachestore.engine.stopping import Finish, Stop
from cachestore.errors import InvalidArgument
from cachestore.hashing import Extras
from cachestore.store.base import Purpose, Store

ENGINE = "engine"
"""The tier of blocks that the engine's own pages had."""


@dataclass(frozen=True)
class BatchRequest:
    """Tokens to go on from, and how.

    `stop.tokens` are all that end it, also the model's own. `choice` tells several outputs of one prompt apart; submit
    them together, and the prompt is computed once. `logprobs` asks for that many of the likeliest tokens beside each.
    `decode` makes text of tokens; without it there is no text, and no `stop.strings`. `expected` is a hint on the
    output's length for the `exact` predictor.

    `store`, of the tenant called `namespace`, is read for `purpose`, with `wait` seconds for blocks that are being
    written; then all of them are fetched, without weighing it against computing. None: only the engine's own pages.
    With `by_slot`, blocks of the prompt go to the store slot by slot while they are computed, for a reader that waits;
    then there is progress among the answers. With `settle`, the usage comes only after all puts of the request ended.
    `first` is for the first token, if another engine computes the prompt and draws it: while that is to be expected,
    it is drawn here only if blocks of the prompt had to be computed here.
    """

    tokens: Sequence[int]
    stop: Stop
    deadline: Deadline
    sampling: Sampling = field(default_factory=Sampling)
    choice: int = 0
    logprobs: int | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    expected: int | None = None
    namespace: str = "default"
    extras: Extras | None = None
    store: Store | None = None
    purpose: Purpose = Purpose.REUSE
    wait: float = 0.0
    by_slot: bool = False
    settle: bool = False
    first: FirstToken | None = None

    def __post_init__(self) -> None:
        if self.stop.strings and self.decode is None:
            raise InvalidArgument("stop: strings need `decode`, which makes text of tokens")
        if self.choice < 0:
            raise InvalidArgument(f"choice must be 0 or more, got {self.choice}")
        if self.logprobs is not None and self.logprobs < 0:
            raise InvalidArgument(f"logprobs must be 0 or more, got {self.logprobs}")
        if not self.wait >= 0:
            raise InvalidArgument(f"wait must be 0 seconds or more, got {self.wait}")


@dataclass(frozen=True)
class BatchToken:
    """One generated token, its place among them, and the text that may be shown since the one before.

    With `logprobs`, the logarithm of its probability and of the likeliest tokens' by token. The first one says what the
    usage will say of where the prompt came from, unless another engine told it.
    """

    id: int
    index: int
    text: str = ""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    computed_tokens: int = 0
    reused: Mapping[str, int] = field(default_factory=dict)


class BatchProgress(NamedTuple):
    """How far a prompt is: the KV of `computed` of its tokens is here.

    From `begun` on the put of its full blocks is open, or they are stored: whoever wants them can wait for them.
    """

    computed: int
    begun: bool


class BatchUsage(NamedTuple):
    """How a request went; it comes behind the last token.

    prompt_tokens = computed_tokens + those `reused` over all tiers, as each came first, unless it was finished before
    its first token. What came again after the
    `preempted` times that it made room for others is counted by the loop alone. `first_token_ms` runs from `submit`.
    """

    prompt_tokens: int
    generated_tokens: int
    computed_tokens: int
    reused: Mapping[str, int]
    finish: Finish
    first_token_ms: float
    preempted: int
