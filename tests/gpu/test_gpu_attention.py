"""The engine on a CUDA device: attention by fused kernels in place, against torch on what it gathers there."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cachestore.engine.paged_model import PagedModel
from cachestore.engine.runner import Runner
from cachestore.engine.settings import EngineSettings
from tests.engine.models import CONFIGS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "llama4"])
def test_fused_kernels_serve_the_engine(name: str, tmp_path: Path) -> None:
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(tmp_path)
    model = PagedModel(EngineSettings(str(tmp_path), device="cuda", block_tokens=16))
    model.open()
    found = []
    for fused in (True, False):
        runner = Runner(model, 16)
        assert runner.memory.kernels == "fused"
        if not fused:
            runner.memory.kernels = None
        sequences = [runner.start(list(range(3, 3 + length))) for length in (40, 17)]
        first = runner.step([(sequences[0], 24), (sequences[1], 17)])
        second = runner.step([(sequences[0], 16)])
        found.append(torch.cat([first.logits, second.logits]))
    model.close()
    assert torch.allclose(*found, atol=1e-3)
