"""A causal language model of transformers that computes on pages, unchanged but for its attention function.

What it computes on a ragged batch is compared with what it computes alone before it is used.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cachestore.block import BlockSpec, Half
from cachestore.engine.attention import ATTENTION, Layer, OnSlot, Step
from cachestore.engine.layers import stored, text_config
from cachestore.engine.model import first_line, model_config, model_spec, pinned
from cachestore.engine.packed_linear import pack
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.ragged import Batch, Row
from cachestore.engine.rotary import longrope_switch
from cachestore.engine.settings import EngineSettings
from cachestore.engine.weights import end_tokens, load, prepare
from cachestore.errors import InvalidArgument, Mismatch, UnsupportedModel

UNLIMITED = 1 << 31
"""Tokens a model takes that states no limit."""

_PROBE = ((1, 2, 3, 4, 5), (6, 7, 8))
_CUTS = (slice(0, 3), slice(0, 2)), (slice(3, 5), slice(2, 3))
"""The probe in two steps, of which the second has a piece behind others and a lone token."""
_TOLERANCE = {torch.float32: 1e-3}
_COARSE = 0.25
"""How far the KV of the probe may be off, as a part of its norm: half precision and other shapes round differently."""


def layers_of(config: Any) -> tuple[Layer, ...]:
    """Which slot each layer writes or uses. UnsupportedModel names the layer that cannot be stored, and why."""
    slots, text = stored(config), text_config(config)
    kinds = getattr(text, "layer_types", None) or [""] * len(slots)
    rotated = getattr(text, "no_rope_layers", None) or []
    if (
        getattr(text, "attn_temperature_tuning", False)
        and 0 in rotated
        and text.max_position_embeddings > text.floor_scale
    ):
        raise UnsupportedModel(
            f"layer {rotated.index(0)} scales its queries by their place in the batch (attn_temperature_tuning) beyond "
            f"{text.floor_scale} tokens; limit max_position_embeddings to that"
        )
    layers: list[Layer] = []
    latest: dict[str, int] = {}
    for index, (slot, kind) in enumerate(zip(slots, kinds, strict=True)):
        if slot is not None:
            latest[kind] = len({layer.slot for layer in layers})
        elif kind not in latest:
            raise UnsupportedModel(
                f"layer {index} uses the KV of another layer of kind {kind!r}, and none is before it"
            )
        layers.append(Layer(latest[kind], slot is not None))
    return tuple(layers)


class PagedModel:
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
        self.device = torch.device(settings.device)
        self._layers: tuple[Layer, ...] = ()
        self._model: Any = None

    def open(self) -> None:
        """Loads the model. ConfigError if it or the device is not there, UnsupportedModel if pages cannot serve it."""
        settings = pinned(self.settings)
        prepare(settings)
        config = model_config(settings)
        text = text_config(config)
        switch = longrope_switch(text)
        self.spec = model_spec(settings, config)
        self._layers = layers_of(config)
        self.max_tokens = switch or int(getattr(text, "max_position_embeddings", None) or UNLIMITED)
        self.vocabulary = int(text.vocab_size)
        model = load(settings, config)
        if settings.packed:
            pack(model)
        self.eos_tokens = end_tokens(model)
        self._adopt(model)

    def close(self) -> None:
        """Lets the model go. Closing twice is allowed."""
        self._model = None

    def forward(self, batch: Batch, memory: PageMemory, last: list[int], on_slot: OnSlot | None = None) -> Tensor:
        """Computes the batch, its KV into pages of `memory`; logits of the packed tokens `last`, [last, vocabulary].

        `on_slot` is told of each slot once its KV is there.
        """
        if self._model is None:
            raise InvalidArgument("the engine is not open")
        with memory.moves.here(), torch.inference_mode():
            answer = self._model(
                input_ids=batch.ids[None],
                position_ids=batch.positions[None],
                use_cache=False,
                logits_to_keep=torch.tensor(last, dtype=torch.int64, device=self.device),
                paged=Step(memory, self._layers, batch, on_slot),
            )
            logits: Tensor = answer.logits[0].float()
            return logits

    def _adopt(self, model: Any) -> None:
        """Sets the attention function, and compares a ragged batch with the model's own computation."""
        for name, module in model.named_modules():
            # towers for images or sound have no layer_idx: they fill no cache
            if getattr(module, "is_causal", True) is False and getattr(module, "layer_idx", None) is not None:
                raise UnsupportedModel(f"{name} is not causal: the KV of a prefix would depend on the tokens behind it")
        try:
            alone = [self._alone(model, tokens) for tokens in _PROBE]
            model.set_attn_implementation(ATTENTION)
            self._model = model
            self._compare(alone)
        except (UnsupportedModel, Mismatch) as error:
            self.close()
            raise UnsupportedModel(f"the model cannot be served from pages: {error}") from error
        except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError) as error:
            self.close()
            raise UnsupportedModel(f"the model cannot compute a ragged batch: {first_line(error)}") from error

    def _alone(self, model: Any, tokens: tuple[int, ...]) -> tuple[Any, Tensor]:
        """What the model makes of these tokens by itself: a cache, and the logits of the last."""
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        ids = torch.tensor([[token % self.vocabulary for token in tokens]], device=self.device)
        with torch.inference_mode():
            answer = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, answer.logits[0, -1].float()

    def _compare(self, alone: list[tuple[Any, Tensor]]) -> None:
        size = self.spec.block_tokens
        blocks = -(-max(map(len, _PROBE)) // size)
        memory = PageMemory(self.spec, len(_PROBE) * blocks, self.device)
        pages = [list(range(index * blocks, (index + 1) * blocks)) for index in range(len(_PROBE))]
        known = [[token % self.vocabulary for token in tokens] for tokens in _PROBE]
        logits = torch.empty(0)
        for cuts in _CUTS:
            rows = [Row(tokens[cut], cut.start, held) for tokens, cut, held in zip(known, cuts, pages, strict=True)]
            batch = Batch(rows, size, memory.dtype, self.device)
            logits = self.forward(batch, memory, batch.last)
        for index, layer in enumerate(self._layers):
            for (cache, _), held, tokens in zip(alone, pages, known, strict=True):
                if layer.writes:
                    self._compare_layer(index, memory, layer.slot, cache.layers[index], held, len(tokens))
        for (_, expected), got in zip(alone, logits, strict=True):
            self._near(got, expected, "the logits")

    def _compare_layer(
        self, index: int, memory: PageMemory, slot: int, own: Any, pages: list[int], tokens: int
    ) -> None:
        for half, expected in ((Half.K, own.keys), (Half.V, own.values)):
            held = memory.half(slot, half)[pages].transpose(0, 1).flatten(1, 2)[:, :tokens]
            # a window keeps the last tokens only
            expected = expected[0, :, -tokens:]
            self._near(held[:, -expected.shape[1] :], expected, f"layer {index}: {half.name}")

    def _near(self, got: Tensor, expected: Tensor, what: str) -> None:
        off = float((got - expected).norm() / expected.norm().clamp(min=1e-9))
        if not off <= _TOLERANCE.get(self.spec_dtype, _COARSE):
            raise UnsupportedModel(f"{what} of a ragged batch is not what the model computes alone (off by {off:.1e})")

    @property
    def spec_dtype(self) -> torch.dtype:
        """The dtype of the KV."""
        dtype: torch.dtype = getattr(torch, self.spec.dtype)
        return dtype
