"""The reference engine: a causal language model of transformers that computes KV a store can keep.

Every layer keeps the KV of all tokens, sliding and chunked ones too, and the model's own masks cut the window. So a
block is whole for every layer, whichever tokens later queries still see.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from cachestore.block import BlockSpec
from cachestore.engine.buffer import SlotBuffer
from cachestore.engine.layers import stored, text_config
from cachestore.engine.model import first_line, model_config, model_spec
from cachestore.engine.rotary import longrope_switch
from cachestore.engine.sequence import Sequence
from cachestore.engine.settings import EngineSettings
from cachestore.engine.weights import end_tokens, load, prepare
from cachestore.errors import InvalidArgument, Mismatch, UnsupportedModel

UNLIMITED = 1 << 31
"""Tokens a model takes that states no limit."""


class _Layer(DynamicLayer):  # type: ignore[misc]
    """A slot buffer as transformers' cache layer: full length, no window, masks by the model."""

    def __init__(self, buffer: SlotBuffer) -> None:
        super().__init__()
        self.is_initialized = True
        self._buffer = buffer

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The buffer stands already."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return self._buffer.append(key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._buffer.length + query_length, 0

    def get_seq_length(self) -> int:
        return self._buffer.length


class HfEngine:
    """One model on one device. `open` loads it; then `spec`, `max_tokens`, `vocabulary`, `eos_tokens` are known.

    Models with longrope are served in their short regime only: transformers switches tables in the middle of a
    sequence, which would leave KV of both in one prompt.
    """

    spec: BlockSpec
    max_tokens: int
    vocabulary: int
    eos_tokens: frozenset[int]

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._model: Any = None
        self._layers: tuple[bool, ...] = ()

    def open(self) -> None:
        """Loads the model. ConfigError if it or the device is not there, UnsupportedModel if its KV has no name."""
        settings = self.settings
        prepare(settings)
        config = model_config(settings)
        text = text_config(config)
        switch = longrope_switch(text)
        self.spec = model_spec(settings, config)
        self._layers = tuple(slot is not None for slot in stored(config))
        self.max_tokens = switch or int(getattr(text, "max_position_embeddings", None) or UNLIMITED)
        self.vocabulary = int(text.vocab_size)
        self._model = load(settings, config)
        self.eos_tokens = end_tokens(self._model)
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets the model go. Closing twice is allowed."""
        self._model = None

    def sequence(self) -> Sequence:
        """An empty sequence."""
        if self._model is None:
            raise InvalidArgument("the engine is not open")
        return self._sequence()[0]

    def _sequence(self) -> tuple[Sequence, list[SlotBuffer]]:
        dtype = getattr(torch, self.settings.dtype)
        device = torch.device(self.settings.device)
        buffers = [SlotBuffer(slot, dtype, device) for slot in self.spec.slots]
        left = iter(buffers)
        # a layer that uses another's KV never touches its own
        cache = Cache(layers=[_Layer(next(left)) if stores else DynamicLayer() for stores in self._layers])

        def forward(ids: Tensor) -> Tensor:
            with torch.no_grad():
                answer = self._model(
                    input_ids=ids[None].to(device), past_key_values=cache, use_cache=True, logits_to_keep=1
                )
            logits: Tensor = answer.logits[0, -1].float()
            return logits

        sequence = Sequence(
            self.spec,
            buffers,
            forward,
            chunk_tokens=self.settings.chunk_tokens,
            vocabulary=self.vocabulary,
            max_tokens=self.max_tokens,
        )
        return sequence, buffers

    def _probe(self) -> None:
        """Computes one token and compares the KV made with the KV the spec names."""
        for name, module in self._model.named_modules():
            # towers for images or sound have no layer_idx: they fill no cache
            if getattr(module, "is_causal", True) is False and getattr(module, "layer_idx", None) is not None:
                raise UnsupportedModel(f"{name} is not causal: the KV of a prefix would depend on the tokens behind it")
        sequence, buffers = self._sequence()
        try:
            sequence.decode(0)
        except Mismatch as error:
            raise UnsupportedModel(f"the model's KV is not what its configuration says: {error}") from error
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"the model cannot compute a token with a cache: {first_line(error)}") from error
        idle = [index for index, buffer in enumerate(buffers) if buffer.length != 1]
        if idle:
            raise UnsupportedModel(f"slot {idle[0]} is never filled: the model keeps the KV of that layer elsewhere")
