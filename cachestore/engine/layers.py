"""Which KV each layer of a model stores, read from its configuration.

Works on any transformers configuration by its fields. What is read here is checked against the K and V that the model
really makes when an engine opens it.
"""

from typing import Any

from cachestore.block import Attention, Slot
from cachestore.errors import UnsupportedModel

_KINDS = {
    "full_attention": (Attention.FULL, ""),
    "sliding_attention": (Attention.SLIDING, "sliding_window"),
    "chunked_attention": (Attention.CHUNKED, "attention_chunk_size"),
}
_RECURRENT = "its state sums up all tokens before it, so it cannot be cut into blocks"
_SPARSE = "it keeps an index or a compressed cache next to K and V"
_REASONS = {
    "linear_attention": _RECURRENT,
    "conv": _RECURRENT,
    "hybrid": _RECURRENT,
    "hybrid_sliding": _RECURRENT,
    "recurrent": _RECURRENT,
    "mamba": _RECURRENT,
    "indexed_attention": _SPARSE,
    "compressed_sparse_attention": _SPARSE,
    "heavily_compressed_attention": _SPARSE,
    "minimax_m3_sparse": _SPARSE,
    "moe": "it has no attention",
}


def text_config(config: Any) -> Any:
    """The configuration of the language model inside a multimodal one, or `config` itself."""
    inner = getattr(config, "get_text_config", None)
    return inner(decoder=True) if inner is not None else config


def _kind(layer: Any) -> str:
    """The attention kind of a layer whose configuration does not name it, as transformers infers it."""
    if getattr(layer, "sliding_window", None):
        return "sliding_attention"
    return "chunked_attention" if getattr(layer, "attention_chunk_size", None) else "full_attention"


def _slot(layer: Any, kind: str, index: int) -> Slot:
    if kind not in _KINDS:
        reason = _REASONS.get(kind, "its cache is not plain K and V per token")
        raise UnsupportedModel(f"layer {index} is of kind {kind!r}: {reason}")
    if getattr(layer, "kv_lora_rank", None):
        raise UnsupportedModel(
            f"layer {index} uses latent attention (kv_lora_rank = {layer.kv_lora_rank}): the engine would store K "
            "and V of every head instead of the latent"
        )
    attention, field = _KINDS[kind]
    window = int(getattr(layer, field, None) or 0) if field else 0
    if field and not window:
        raise UnsupportedModel(f"layer {index} is of kind {kind!r} but the configuration has no {field}")
    heads = int(layer.num_attention_heads)
    kv_heads = int(getattr(layer, "num_key_value_heads", None) or getattr(layer, "num_kv_heads", None) or heads)
    key_dim = int(getattr(layer, "head_dim", None) or layer.hidden_size // heads)
    return Slot(kv_heads, key_dim, int(getattr(layer, "v_head_dim", None) or key_dim), attention, window)


def stored(config: Any) -> tuple[Slot | None, ...]:
    """For every layer the slot it stores, or None where it uses the KV of another layer.

    UnsupportedModel names the layer and the reason.
    """
    text = text_config(config)
    if getattr(text, "is_encoder_decoder", False):
        raise UnsupportedModel("an encoder-decoder model: its cross attention depends on more than the tokens before")
    if not getattr(text, "is_causal", True) or getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        raise UnsupportedModel("bidirectional attention: the KV of a prefix would depend on the tokens behind it")
    count = int(getattr(text, "num_hidden_layers", 0))
    layers = (getattr(text, "per_layer_config", None) or [text] * count) if count else []
    if not all(getattr(layer, "num_attention_heads", None) for layer in layers or [text]):
        raise UnsupportedModel(
            f"model type {getattr(text, 'model_type', 'unknown')!r} states no attention heads: a recurrent or "
            f"state-space model; {_RECURRENT}"
        )
    kinds = getattr(text, "layer_types", None) or [_kind(layer) for layer in layers]
    modes = getattr(text, "kv_sharing_modes", None) or [None] * count
    if getattr(text, "num_kv_shared_layers", 0) and not any(modes):
        raise UnsupportedModel(
            "num_kv_shared_layers is set but the configuration does not say which layers share KV: transformers has "
            "it say so from 5.23 on"
        )
    return tuple(
        None if mode == "reuse" else _slot(layer, kind, index)
        for index, (layer, kind, mode) in enumerate(zip(layers, kinds, modes, strict=True))
    )
