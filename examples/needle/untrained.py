"""The untrained model: random weights, but the heads of the first layer look back by fixed distances.

To look something up, a model must know at each token which tokens stand before it. From random weights
alone it finds that out late and by chance; when the first heads start out like this, copying is learnt
in a few hundred steps instead of thousands. Training is free to change it.
"""

import torch
from attention import TRAINING_ATTENTION
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

ROPE_THETA = 500_000.0
COMMON = 0.45
"""First component of every embedding at the start, about as long as all the random ones together."""

FREQUENCIES = 8
"""How many of the fastest rotary frequencies mark the distance."""

SHARPNESS = 0.87
"""Weight of those components in queries and keys: the right token gets about e^5 times its neighbour."""


def make_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Return the untrained model, with grouped queries (two per key/value head) and tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = TRAINING_ATTENTION
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    look_back(model)
    return model


@torch.no_grad()
def look_back(model: LlamaForCausalLM) -> None:
    """Let query head h of the first layer attend to the token h + 1 places before.

    A component that all embeddings share gives every token the same key, and every token the same query
    turned back by h + 1 places: rotary positions make their product largest at exactly that distance.
    """
    config = model.config
    half, fast = config.head_dim // 2, slice(0, FREQUENCIES)
    angles = ROPE_THETA ** (-torch.arange(FREQUENCIES) / half)
    model.model.embed_tokens.weight[:, 0] = COMMON
    attention = model.model.layers[0].self_attn
    # [heads, the two components of a rotary pair, frequencies], all of them reading the common component.
    keys = attention.k_proj.weight[:, 0].view(config.num_key_value_heads, 2, half)
    queries = attention.q_proj.weight[:, 0].view(config.num_attention_heads, 2, half)
    keys.zero_()
    queries.zero_()
    keys[:, 0, fast] = SHARPNESS
    for head in range(config.num_attention_heads):
        queries[head, 0, fast] = SHARPNESS * torch.cos(angles * (head + 1))
        queries[head, 1, fast] = -SHARPNESS * torch.sin(angles * (head + 1))
