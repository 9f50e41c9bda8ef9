"""Tiny models with seeded random weights, saved as a user would have them: a directory of safetensors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cachestore.engine.paged_model import PagedModel
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from tests.engine.batches import Directory, opened
from tests.engine.models import CONFIGS


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
