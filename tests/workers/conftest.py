"""One tiny model, and stores in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.settings import EngineSettings
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("tiny")
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> Iterator[PagedModel]:
    """Blocks of 16 tokens."""
    model = PagedModel(EngineSettings(str(tiny_model), block_tokens=16, threads=1))
    model.open()
    yield model
    model.close()


@pytest.fixture
def open_loop(model: PagedModel) -> Iterator[Callable[..., BatchLoop]]:
    """Serving loops; what is stored is read, however fast it could be computed."""
    opened: list[BatchLoop] = []

    def make(**settings: Any) -> BatchLoop:
        loop = BatchLoop(model, BatchSettings(**{"pages": 80, "recompute": False, **settings}))
        loop.open()
        opened.append(loop)
        return loop

    yield make
    for loop in opened:
        loop.close()


@pytest.fixture
def make_store() -> Iterator[Callable[..., TieredStore]]:
    """Open stores of one memory tier."""
    opened: list[TieredStore] = []

    def make(capacity: str = "16MiB") -> TieredStore:
        store = compose({"tiers": [{"name": "cpu", "capacity": capacity}]})
        store.open()
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def serve(make_store: Callable[..., TieredStore]) -> Iterator[Callable[..., CacheStoreServer]]:
    """Serves stores in this process; `port` 0 picks a free one."""
    opened: list[CacheStoreServer] = []

    def make(port: int = 0) -> CacheStoreServer:
        server = CacheStoreServer(make_store(), ServiceSettings(port=port))
        server.open()
        opened.append(server)
        return server

    yield make
    for server in opened:
        server.close(0)
