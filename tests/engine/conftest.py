"""Tiny models with seeded random weights, saved as a user would have them: a directory of safetensors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3Config,
)

from cachestore.engine.hf import HfEngine
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.settings import EngineSettings
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from tests.engine.batches import Directory, opened

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
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of the model called so in `CONFIGS`, made once."""
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            torch.manual_seed(7)
            model = AutoModelForCausalLM.from_config(CONFIGS[name]())
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
        return made[name]

    return directory


@pytest.fixture
def open_engine(model_dir: Callable[[str], Path]) -> Iterator[Callable[..., HfEngine]]:
    """Opens engines by model name and settings, with chunk == block == 64 unless said otherwise."""
    opened: list[HfEngine] = []

    def make(name: str, **settings: Any) -> HfEngine:
        engine = HfEngine(EngineSettings(str(model_dir(name)), **{"chunk_tokens": 64, **settings}))
        engine.open()
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()


@pytest.fixture(scope="module")
def model(model_dir: Directory) -> Iterator[PagedModel]:
    model = opened(model_dir("llama"))
    yield model
    model.close()


@pytest.fixture
def tiered(tmp_path: Path) -> Iterator[TieredStore]:
    tiers = [
        {"name": "cpu", "capacity": "1MiB"},
        {"name": "disk", "path": str(tmp_path / "disk"), "capacity": "64MiB"},
    ]
    with compose({"tiers": tiers}) as store:
        yield store
        store.settle()
        store.check()
