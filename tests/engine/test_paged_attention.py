"""Attention that reads pages in place, naive and fused, against torch on what it gathers: the same logits."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cachestore.engine.paged_model import PagedModel
from cachestore.engine.runner import Runner, greedy
from cachestore.engine.settings import EngineSettings
from cachestore_kernels.method import Method
from tests.engine.batches import Directory
from tests.kernels.conftest import interpreting

KINDS = ["llama", "gemma2", "gpt_oss", "llama4"]
"""Plain; windows and soft cap; sinks; chunks."""


def steps(model: PagedModel, kernels: Method | None) -> list[torch.Tensor]:
    """The logits of prompts in chunks beside sequences that go on, of lengths that end in and at pages."""
    runner = Runner(model, 24)
    runner.memory.kernels = kernels
    random = np.random.default_rng(5)
    sequences = [runner.start([int(token) for token in random.integers(3, 97, length)]) for length in (40, 16, 3)]
    found = []
    for counts in ((24, 16, 0), (16, 1, 3), (1, 1, 1)):
        wanted = [(sequence, count) for sequence, count in zip(sequences, counts, strict=True) if count]
        stepped = runner.step(wanted)
        found.append(stepped.logits.clone())
        for sequence, token in zip(stepped.sequences, greedy(stepped.logits), strict=True):
            sequence.append(token)
    return found


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, model_dir: Directory) -> Iterator[PagedModel]:
    model = PagedModel(EngineSettings(str(model_dir(request.param)), block_tokens=16))
    model.open()
    yield model
    model.close()


def test_naive_kernels_give_what_torch_gives(model: PagedModel) -> None:
    for one, two in zip(steps(model, None), steps(model, "naive"), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.slow
def test_fused_kernels_give_what_naive_ones_give(model: PagedModel) -> None:
    with interpreting():
        fused = steps(model, "fused")
    for one, two in zip(steps(model, "naive"), fused, strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_all_kinds_ask_the_kernels(model: PagedModel) -> None:
    with pytest.raises(ValueError, match="method: 'naive', 'fused' or None"):
        steps(model, "neither")  # type: ignore[arg-type]
