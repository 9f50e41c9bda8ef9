"""What is asked of a model, as workers speak of it, and the checks on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from cachestore.engine.sampling import Sampling
from cachestore.errors import InvalidArgument, TooLarge
from cachestore.hashing import Chain, chain
from cachestore.service.words import Words
from cachestore.wire import worker_pb2 as wire

if TYPE_CHECKING:
    from cachestore.engine.hf import HfEngine

MOST_SALTS = 16
LONGEST_SALT = 256


class CacheUse(StrEnum):
    """Whether a request may use the store.

    With OFF nothing is looked up and nothing is stored, not even for a handoff: the decode worker computes the prompt.
    """

    READ_AND_WRITE = "read_and_write"
    OFF = "off"


CACHE_USE = Words("cache", {wire.READ_AND_WRITE: CacheUse.READ_AND_WRITE, wire.OFF: CacheUse.OFF})


@dataclass(frozen=True)
class Prompt:
    """Tokens, how the next ones are drawn, and how the store is used; `salts` are extras of the first block."""

    tokens: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    cache: CacheUse = CacheUse.READ_AND_WRITE
    salts: tuple[bytes, ...] = ()

    def check(self, engine: "HfEngine") -> None:
        """InvalidArgument, naming the field, for what this engine cannot compute."""
        if not self.tokens:
            raise InvalidArgument("tokens must not be empty")
        if len(self.tokens) > engine.max_tokens:
            raise TooLarge(f"tokens: the prompt has {len(self.tokens)} tokens, the model takes {engine.max_tokens}")
        ids = np.asarray(self.tokens, dtype=np.int64)
        foreign = (ids < 0) | (ids >= engine.vocabulary)
        if foreign.any():
            raise InvalidArgument(f"tokens[{int(foreign.argmax())}] must lie in 0 .. {engine.vocabulary - 1}")
        if len(self.salts) > MOST_SALTS or not all(1 <= len(salt) <= LONGEST_SALT for salt in self.salts):
            raise InvalidArgument(f"salts must be at most {MOST_SALTS} values of 1 to {LONGEST_SALT} bytes")

    def chain(self, engine: "HfEngine", tokens: Sequence[int]) -> Chain:
        """The keys of the full blocks of `tokens`, this prompt's or those that grew from it."""
        return chain(engine.spec, tokens, {0: self.salts})


def prompt(message: Any) -> Prompt:
    """The prompt of a PrefillRequest or GenerateRequest."""
    how = message.sampling
    sampling = Sampling(how.temperature, how.top_k, how.top_p, how.seed, how.min_p)
    return Prompt(list(message.tokens), sampling, CACHE_USE.word(message.cache), tuple(message.salts))


def prompt_fields(value: Prompt) -> dict[str, Any]:
    """The other way: the fields that both requests have."""
    how = value.sampling
    sampling = wire.Sampling(
        temperature=how.temperature, top_k=how.top_k, top_p=how.top_p, seed=how.seed, min_p=how.min_p
    )
    return dict(tokens=value.tokens, sampling=sampling, cache=CACHE_USE.number(value.cache), salts=value.salts)
