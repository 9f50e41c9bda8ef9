"""From configurations to specs: what is named, what is refused, what changes the fingerprint."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    BambaConfig,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GemmaConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3NextConfig,
    T5Config,
)

from cachestore.block import Attention, BlockSpec, Slot
from cachestore.engine.spec import spec_of
from cachestore.errors import InvalidArgument, UnsupportedModel
from cachestore.hashing import fingerprint


def spec(config: Any, **settings: Any) -> BlockSpec:
    return spec_of(config, **{"model": "m", "revision": "r", "dtype": "bfloat16", **settings})


@pytest.mark.parametrize(
    ("config", "slots", "first", "groups"),
    [
        (LlamaConfig(num_key_value_heads=8), 32, Slot(8, 128, 128), 8),
        (LlamaConfig(), 32, Slot(32, 128, 128), 8),
        (Qwen2Config(num_attention_heads=14, num_key_value_heads=2, hidden_size=896), 32, Slot(2, 64, 64), 2),
        (Qwen3Config(num_key_value_heads=8), 32, Slot(8, 128, 128), 8),
        (Qwen3MoeConfig(), 24, Slot(4, 64, 64), 4),
        (MixtralConfig(), 32, Slot(8, 128, 128), 8),
        (MistralConfig(sliding_window=4096), 32, Slot(8, 128, 128, Attention.SLIDING, 4096), 8),
        (GemmaConfig(num_key_value_heads=1), 28, Slot(1, 256, 256), 1),
        (Phi3Config(), 32, Slot(32, 96, 96), 8),
        (GPT2Config(), 12, Slot(12, 64, 64), 6),
        (Llama4TextConfig(num_hidden_layers=4), 4, Slot(8, 128, 128, Attention.CHUNKED, 8192), 8),
    ],
)
def test_slots_of_known_models(config: Any, slots: int, first: Slot, groups: int) -> None:
    made = spec(config)
    assert len(made.slots) == slots
    assert made.slots[0] == first
    assert made.head_groups == groups


def test_layers_that_alternate() -> None:
    two, three = spec(Gemma2Config(sliding_window=512)), spec(Gemma3TextConfig(num_hidden_layers=6))
    assert [slot.window for slot in two.slots[:3]] == [512, 0, 512]
    assert [slot.attention for slot in three.slots] == [Attention.SLIDING] * 5 + [Attention.FULL]
    rotary = json.loads(three.rotary)["rope_parameters"]
    assert rotary["sliding_attention"]["rope_theta"] == 10_000
    assert rotary["full_attention"]["rope_theta"] == 1_000_000


def test_layers_of_other_shapes_keep_their_own() -> None:
    made = spec(Gemma4TextConfig(num_hidden_layers=6, global_head_dim=512, head_dim=256))
    assert {slot.key_dim for slot in made.slots} == {256, 512}


def test_layers_that_share_kv_are_stored_once() -> None:
    config = Gemma3nTextConfig(num_hidden_layers=15, num_kv_shared_layers=5)
    assert len(spec(config).slots) == 10
    untold = SimpleNamespace(**{**vars(llama_like()), "num_kv_shared_layers": 2})
    with pytest.raises(UnsupportedModel, match="which layers share"):
        spec(untold)


def test_a_multimodal_model_is_named_by_its_language_model() -> None:
    text = Gemma3TextConfig(num_hidden_layers=6)
    assert spec(Gemma3Config(text_config=text.to_dict())).slots == spec(text).slots


def llama_like() -> SimpleNamespace:
    """A configuration that is only a bag of fields."""
    return SimpleNamespace(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=64,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )


def test_any_object_with_the_fields_will_do() -> None:
    made = spec(llama_like())
    assert made.slots == (Slot(2, 16, 16),) * 2
    assert made.rotary == '{"rope_parameters":{"rope_theta":10000,"rope_type":"default"}}'


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Qwen3NextConfig(), "layer 0 is of kind 'linear_attention'.*sums up all tokens"),
        (BambaConfig(attn_layer_indices=[0], num_hidden_layers=2), "layer 1 is of kind 'linear_attention'"),
        (MambaConfig(), "'mamba' states no attention heads"),
        (DeepseekV3Config(), "layer 0 uses latent attention .kv_lora_rank = 512"),
        (T5Config(), "encoder-decoder"),
        (Gemma3TextConfig(use_bidirectional_attention=True), "bidirectional"),
        (SimpleNamespace(**{**vars(llama_like()), "layer_types": ["full_attention", "novel"]}), "layer 1.*'novel'"),
        (SimpleNamespace(**{**vars(llama_like()), "layer_types": ["sliding_attention"] * 2}), "no sliding_window"),
        (LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "dynamic NTK"),
    ],
)
def test_refused_with_the_reason(config: Any, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        spec(config)


def longrope(**settings: Any) -> Phi3Config:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    return Phi3Config(rope_parameters={**rope, "factor": 32.0}, **settings)


def test_longrope_needs_a_regime_where_there_are_two() -> None:
    both = longrope(max_position_embeddings=131072, original_max_position_embeddings=4096)
    with pytest.raises(UnsupportedModel, match=r"beyond 4096 tokens.*rotary_regime"):
        spec(both)
    short, long = spec(both, rotary_regime="short"), spec(both, rotary_regime="long")
    assert (short.rotary_regime, long.rotary_regime) == ("short", "long")
    assert fingerprint(short) != fingerprint(long)
    only = longrope(max_position_embeddings=4096, original_max_position_embeddings=4096)
    assert spec(only).rotary_regime == "short"
    for config, regime in ((both, "middle"), (LlamaConfig(), "short")):
        with pytest.raises(InvalidArgument, match="rotary_regime"):
            spec(config, rotary_regime=regime)


def rope(**settings: Any) -> LlamaConfig:
    return LlamaConfig(num_key_value_heads=8, rope_parameters=settings)


def test_every_difference_gives_another_fingerprint() -> None:
    base = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    base["original_max_position_embeddings"] = 1024
    config = rope(**base)
    specs = [
        spec(config),
        spec(config, model="other"),
        spec(config, revision="other"),
        spec(config, dtype="float32"),
        spec(config, block_tokens=32),
        spec(config, head_groups=4),
        spec(config, adapter="a"),
        spec(config, adapter="a", adapter_revision="1"),
        spec(config, weights="int8"),
        spec(rope(rope_type="default", rope_theta=5e5)),
        spec(rope(rope_type="default", rope_theta=1e4)),
        spec(rope(**{**base, "factor": 16.0})),
        spec(rope(**{**base, "low_freq_factor": 2.0})),
        spec(rope(rope_type="linear", rope_theta=1e4, factor=2.0)),
        spec(rope(rope_type="yarn", rope_theta=1e4, factor=2.0)),
        spec(rope(rope_type="yarn", rope_theta=1e4, factor=2.0, beta_fast=16.0)),
        spec(LlamaConfig(num_key_value_heads=4)),
        spec(MistralConfig(sliding_window=64)),
        spec(MistralConfig(sliding_window=128)),
    ]
    assert len({fingerprint(each) for each in specs}) == len(specs)


def test_a_number_has_one_spelling() -> None:
    assert spec(rope(rope_type="default", rope_theta=10000)) == spec(rope(rope_type="default", rope_theta=10000.0))


def test_head_groups_must_divide_every_slot() -> None:
    with pytest.raises(InvalidArgument, match="head_groups = 3"):
        spec(LlamaConfig(num_key_value_heads=8), head_groups=3)
    assert spec(LlamaConfig(num_attention_heads=36, hidden_size=36 * 64, num_key_value_heads=12)).head_groups == 6


def test_the_spec_needs_no_transformers() -> None:
    code = "import sys, cachestore.engine.spec, cachestore.engine.sampling; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
