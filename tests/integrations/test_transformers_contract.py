"""The transformers that is installed has the interface that `PrefixCache` was written for."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Cache, DynamicCache, GenerationMixin, LlamaConfig, MistralConfig

from tests.engine.models import SHAPE

CALLED: list[tuple[Callable[..., Any], list[str]]] = [
    (Cache.activate_past_recording, ["self"]),
    (Cache.get_seq_length, ["self"]),
    (Cache.update, ["self", "key_states", "value_states", "layer_idx"]),
    (GenerationMixin.generate, ["self", "inputs"]),
]


@pytest.mark.parametrize("method, parameters", CALLED, ids=lambda each: getattr(each, "__qualname__", ""))
def test_methods_are_those_that_are_called(method: Callable[..., Any], parameters: list[str]) -> None:
    taken = list(inspect.signature(method).parameters.values())
    assert [each.name for each in taken[: len(parameters)]] == parameters, method.__qualname__
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        each.name for each in taken[len(parameters) :] if each.default is each.empty and each.kind not in optional
    ]
    assert needed == [], method.__qualname__


def test_a_cache_is_made_of_a_configuration() -> None:
    assert "config" in inspect.signature(DynamicCache).parameters


@pytest.mark.parametrize("config", [LlamaConfig(**SHAPE), MistralConfig(**SHAPE, sliding_window=4)])
def test_layers_show_all_they_were_given_once_past_is_recorded(config: Any) -> None:
    cache = DynamicCache(config=config)
    cache.activate_past_recording()
    heads, dim = config.num_key_value_heads, config.head_dim
    given = torch.arange(heads * 9 * dim, dtype=torch.float32).reshape(1, heads, 9, dim)
    cache.update(given[:, :, :6], -given[:, :, :6], 0)
    masked, _ = cache.get_mask_sizes(3, 0)
    shown, _ = cache.update(given[:, :, 6:], -given[:, :, 6:], 0)
    # and attention is shown as many as its mask has
    assert torch.equal(shown, given[:, :, -masked:])
    assert cache.get_seq_length() == 9
    assert torch.equal(cache.layers[0].keys, given) and torch.equal(cache.layers[0].values, -given)
