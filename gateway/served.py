"""What the gateway knows of the model: how to make tokens of text and keys of tokens, and how many it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cachestore.block import BlockSpec
from cachestore.engine.settings import EngineSettings
from cachestore.errors import ConfigError
from cachestore.hashing import Chain, extend, fingerprint

UNLIMITED = 1 << 31
"""Tokens a model takes that states no limit."""

LONGEST_TOKENS = 16
"""Characters for each token that the model takes, beyond which a text is looked at before all of it is tokenised."""

MARGIN = 2
"""Where a text is cut its tokens may be other ones; never so many others that what follows would make up for it."""


def fast_tokenizer(settings: EngineSettings) -> Any:
    """The tokenizer beside the model. ConfigError if there is none, or none that is as fast as requests come."""
    from cachestore.engine.model import tokenizer

    words = tokenizer(settings)
    if not getattr(words, "is_fast", False):
        raise ConfigError(f"engine.model: {settings.model!r} has no fast tokenizer (tokenizer.json)")
    return words


@dataclass(frozen=True)
class Served:
    """The model called `name`. `ends` are the tokens with which an answer of it ends by itself."""

    name: str
    tokenizer: Any
    spec: BlockSpec
    max_tokens: int
    vocabulary: int
    ends: frozenset[int]

    @classmethod
    def load(cls, settings: EngineSettings, name: str = "") -> Self:
        """Reads configuration and tokenizer, no weights. ConfigError or UnsupportedModel if they cannot be used."""
        # transformers takes seconds to import, and only a gateway that opens needs it
        from transformers import GenerationConfig

        from cachestore.engine.layers import text_config
        from cachestore.engine.model import model_config, model_spec, pinned
        from cachestore.engine.rotary import longrope_switch

        settings = pinned(settings)
        config = model_config(settings)
        text = text_config(config)
        try:
            ends = GenerationConfig.from_pretrained(settings.model, revision=settings.revision or None).eos_token_id
        except OSError:
            ends = getattr(text, "eos_token_id", None)
        words = fast_tokenizer(settings)
        # the first call settles what is not thread-safe in it, and that nothing is cut off or filled up
        words.encode("")
        return cls(
            name or Path(settings.model).name,
            words,
            model_spec(settings, config),
            longrope_switch(text) or int(getattr(text, "max_position_embeddings", None) or UNLIMITED),
            int(text.vocab_size),
            frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends]),
        )

    @cached_property
    def fingerprint(self) -> bytes:
        """Of the spec; asking for it takes as long as a prompt's keys."""
        return fingerprint(self.spec)

    def keys(self, tokens: Sequence[int]) -> Chain:
        """The keys of the full blocks of `tokens`."""
        return extend(self.spec, Chain(self.fingerprint, ()), tokens)

    def tokens(self, text: str, *, signs: bool = True) -> list[int]:
        """The tokens of a text; with the model's own `signs` of a beginning or an end, where it has them.

        Of a text that is far too long only those of its beginning, which are more than the model takes already.
        """
        look = LONGEST_TOKENS * self.max_tokens
        if len(text) > look:
            beginning = self._encoded(text[:look], signs)
            if len(beginning) > MARGIN * self.max_tokens:
                return beginning
        return self._encoded(text, signs)

    def _encoded(self, text: str, signs: bool) -> list[int]:
        # not by way of transformers, which takes as long again; `encode` would keep Python's lock all the while
        ids: list[int] = self.tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=signs)[0].ids
        return ids

    def text(self, tokens: list[int]) -> str:
        """What tokens read, without the model's own signs."""
        # not by way of transformers, which tidies spaces up: then longer text need not begin with the shorter one
        read: str = self.tokenizer.backend_tokenizer.decode(tokens, skip_special_tokens=True)
        return read

    def sign(self, token: int) -> str:
        """What one token reads by itself, also one of the model's own signs."""
        read: str = self.tokenizer.backend_tokenizer.decode([token], skip_special_tokens=False)
        return read
