"""What is asked of a model, as workers speak of it, and the checks on it."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from cachestore.block import BlockSpec
from cachestore.engine.sampling import Sampling
from cachestore.errors import InvalidArgument, TooLarge
from cachestore.hashing import Chain, Extras, chain
from cachestore.service.words import Words
from cachestore.wire import worker_pb2 as wire

if TYPE_CHECKING:
    from cachestore.engine.paged_model import PagedModel

MOST_SALTS = 16
LONGEST_SALT = 256
SALT_BYTES = 16
MOST_LOGPROBS = 20


class CacheUse(StrEnum):
    """Whether a request may use the store.

    With OFF nothing is looked up and nothing is stored, not even for a handoff: the decode worker computes the prompt,
    and its own pages serve nobody else.
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

    def check(self, model: "PagedModel") -> None:
        """InvalidArgument, naming the field, for what this model cannot compute."""
        if not self.tokens:
            raise InvalidArgument("tokens must not be empty")
        if len(self.tokens) > model.max_tokens:
            raise TooLarge(f"tokens: the prompt has {len(self.tokens)} tokens, the model takes {model.max_tokens}")
        ids = np.asarray(self.tokens, dtype=np.int64)
        foreign = (ids < 0) | (ids >= model.vocabulary)
        if foreign.any():
            raise InvalidArgument(f"tokens[{int(foreign.argmax())}] must lie in 0 .. {model.vocabulary - 1}")
        if len(self.salts) > MOST_SALTS or not all(1 <= len(salt) <= LONGEST_SALT for salt in self.salts):
            raise InvalidArgument(f"salts must be at most {MOST_SALTS} values of 1 to {LONGEST_SALT} bytes")

    @property
    def extras(self) -> Extras:
        """What its keys hold besides tokens; with OFF nobody else's keys are alike, here neither."""
        own = (secrets.token_bytes(SALT_BYTES),) if self.cache is CacheUse.OFF else ()
        return {0: (*self.salts, *own)}

    def chain(self, spec: BlockSpec) -> Chain:
        """The keys of its full blocks in the store."""
        return chain(spec, self.tokens, {0: self.salts})


def check_logprobs(count: int | None) -> None:
    """InvalidArgument for more of the likeliest tokens than are told beside one."""
    if (count or 0) > MOST_LOGPROBS:
        raise InvalidArgument(f"logprobs must be at most {MOST_LOGPROBS}, got {count}")


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
