"""Store, prefill workers and decode workers as processes, over tiny models with random weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

from cachestore.tiers.embedded import EmbeddedRedis
from tests.e2e.cluster import Children, Trio, eventually
from tests.engine.models import SHAPE as MODEL_SHAPE

SHAPE = MODEL_SHAPE | {"max_position_embeddings": 8192}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=24),
}


def prompt(length: int, seed: int) -> list[int]:
    """A prompt that no other seed makes."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, 97, length)]


@pytest.fixture(scope="session")
def make_prompt() -> Callable[[int, int], list[int]]:
    """`prompt` for tests."""
    return prompt


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """`eventually` for tests."""
    return eventually


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a model by its name in `CONFIGS`, made once."""
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            torch.manual_seed(11)
            made[name] = tmp_path_factory.mktemp(name)
            AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(made[name])
        return made[name]

    return directory


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis that tests can look into."""
    server = EmbeddedRedis(64 << 20)
    server.open()
    yield server.url
    server.close()


@pytest.fixture(scope="session")
def make_trio(
    model_dir: Callable[[str], Path], redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trio]:
    """A cluster that is not started yet, by the name of its model."""

    def make(model: str = "llama", cold: bool = True) -> Trio:
        return Trio(Children(tmp_path_factory.mktemp("trio")), model_dir(model), redis_url if cold else "")

    return make


@pytest.fixture(scope="session")
def trio(make_trio: Callable[..., Trio]) -> Iterator[Trio]:
    """The cluster shared by tests that break nothing for good."""
    cluster = make_trio()
    try:
        cluster.start('rest = "50ms"')
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def empty(trio: Trio) -> Iterator[Trio]:
    """The shared cluster with an empty store, and nothing left open behind the test."""
    trio.at_rest()
    trio.store.clear()
    yield trio
    trio.at_rest()
