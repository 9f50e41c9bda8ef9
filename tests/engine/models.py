"""Configurations of tiny models of every kind."""

from typing import Any

from transformers import (
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GPT2Config,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
)

SHAPE: dict[str, Any] = dict(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=1024,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    initializer_range=0.2,
    tie_word_embeddings=False,
)
PLAIN = {name: value for name, value in SHAPE.items() if name not in ("head_dim", "tie_word_embeddings")}
"""For models that take no more of it."""
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=32),
    "gemma2": lambda: Gemma2Config(**SHAPE, sliding_window=32),
    "gemma3": lambda: Gemma3TextConfig(**{**SHAPE, "num_hidden_layers": 6}, sliding_window=32),
    "gemma3n": lambda: Gemma3nTextConfig(
        **{**SHAPE, "num_hidden_layers": 6},
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"] * 3,
        num_kv_shared_layers=2,
        vocab_size_per_layer_input=97,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 6,
    ),
    "gemma4": lambda: Gemma4TextConfig(
        **{**SHAPE, "num_hidden_layers": 6},
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"] * 3,
        num_kv_shared_layers=2,
        global_head_dim=32,
        vocab_size_per_layer_input=97,
        hidden_size_per_layer_input=8,
    ),
    "llama4": lambda: Llama4TextConfig(
        **{**SHAPE, "num_hidden_layers": 4},
        attention_chunk_size=32,
        num_local_experts=2,
        intermediate_size_mlp=96,
        interleave_moe_layer_step=2,
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=97, n_embd=64, n_layer=3, n_head=4, n_positions=1024, initializer_range=0.2, eos_token_id=2
    ),
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4),
    "phi3": lambda: Phi3Config(
        **{**SHAPE, "max_position_embeddings": 512},
        original_max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8,
        },
    ),
    "qwen2": lambda: Qwen2Config(**PLAIN),
    "phi": lambda: PhiConfig(**PLAIN),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **PLAIN, num_experts=4, moe_intermediate_size=48, shared_expert_intermediate_size=48
    ),
    # attention sinks, and YaRN
    "gpt_oss": lambda: GptOssConfig(
        **PLAIN,
        head_dim=16,
        sliding_window=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
}
