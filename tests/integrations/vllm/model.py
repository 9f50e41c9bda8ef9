"""A model that is never loaded: its KV's shape, vLLM's configuration of it, and how its attention writes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVTransferConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.model_executor.models.registry import ModelRegistry

PAGE_TOKENS = 16
ARCHITECTURE = "StandInForCausalLM"


@dataclass(frozen=True)
class Shape:
    """A model's KV."""

    layers: int = 3
    kv_heads: int = 2
    head_dim: int = 16
    dtype: torch.dtype = torch.bfloat16


class StandIn(torch.nn.Module):
    """What vLLM asks a model class before it loads one; ours is never loaded."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return input_ids

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return input_ids

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


def config_of(
    directory: Path, shape: Shape, pages: int, budget: int, transfer: dict[str, Any], **model: Any
) -> VllmConfig:
    """vLLM's configuration of a tiny Llama whose files are in `directory`; `model` are more settings of it."""
    directory.mkdir(parents=True, exist_ok=True)
    # else vLLM imports its Llama in a process of its own, to ask it the same
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, StandIn)
    files = {
        "model_type": "llama",
        "architectures": [ARCHITECTURE],
        "vocab_size": 4096,
        "hidden_size": 2 * shape.kv_heads * shape.head_dim,
        "intermediate_size": 64,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": 2 * shape.kv_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 32768,
        "torch_dtype": str(shape.dtype).removeprefix("torch."),
    }
    (directory / "config.json").write_text(json.dumps(files))
    (directory / "model.safetensors").write_bytes(b"weights")
    cache = CacheConfig(block_size=PAGE_TOKENS, gpu_memory_utilization=0.5, enable_prefix_caching=True)
    cache.num_gpu_blocks = pages
    return VllmConfig(
        model_config=ModelConfig(
            model=str(directory), tokenizer=str(directory), skip_tokenizer_init=True, dtype=shape.dtype, **model
        ),
        cache_config=cache,
        scheduler_config=SchedulerConfig(
            max_num_seqs=32,
            max_num_batched_tokens=budget,
            max_model_len=32768,
            is_encoder_decoder=False,
            disable_hybrid_kv_cache_manager=True,
            async_scheduling=False,
        ),
        device_config=DeviceConfig("cpu"),
        kv_transfer_config=KVTransferConfig(kv_buffer_device="cpu", **transfer),
    )


class Backend:
    """Stands for an attention backend, of which only the name and the way of writing count here."""

    def __init__(self, name: str, wrong: bool) -> None:
        self.name, self.wrong = name, wrong
        self.impl = self

    def get_attn_backend(self) -> "Backend":
        return self

    def get_name(self) -> str:
        return self.name

    def do_kv_cache_update(self, layer: Any, key: Tensor, value: Tensor, cache: Tensor, places: Tensor) -> None:
        # as vLLM's FlashAttentionImpl does
        keys, values = cache.transpose(1, 2).split(key.shape[-1], dim=-1)
        if self.wrong:
            keys, values = values, keys
        keys[places // PAGE_TOKENS, places % PAGE_TOKENS] = key
        values[places // PAGE_TOKENS, places % PAGE_TOKENS] = value
