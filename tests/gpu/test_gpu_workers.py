"""Workers on a CUDA device, each a process, beside one on the CPU: the same tokens, out of one store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from decode_worker.client import DecodeClient
from tests.e2e.cluster import Children, Process, Trio
from tests.engine.models import CONFIGS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # whoever comes first has all kernels compiled
    pytest.mark.timeout(240),
]

PAGES = {"prefill": 'gpu_pages = "8MiB"', "decode": "gpu_pages = true"}


@dataclass
class OnDevice(Trio):
    """With workers on a device, which hand each other its pages or do not."""

    pages: bool = False

    def start_worker(self, role: str, name: str, settings: str = "", batch: str = "") -> Process:
        return super().start_worker(role, name, settings + (PAGES[role] if self.pages else ""), batch)


@pytest.fixture(params=[False, True], ids=["", "gpu_pages"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnDevice]:
    torch.manual_seed(7)
    model, folder = tmp_path / "llama", tmp_path / "children"
    folder.mkdir()
    AutoModelForCausalLM.from_config(CONFIGS["llama"]()).save_pretrained(model)
    cluster = OnDevice(Children(folder, forks=False), model, engine_table='device = "cuda"', pages=request.param)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def test_a_handoff_and_what_others_go_on_from(cluster: OnDevice) -> None:
    tokens = [3 + number * number % 90 for number in range(70)]
    made, usage = cluster.ask(tokens)
    assert made == cluster.expected(tokens) and usage.prefilled_by == "p0" and usage.loaded_tokens == 64
    again, usage = cluster.ask(tokens)
    assert again == made and sum(usage.reuse.reused.values()) == 64
    cluster.engine_table, cluster.pages = "", False
    other = cluster.children.told(cluster.start_worker("decode", "d1"))
    with DecodeClient(other.address) as client, client.generate(tokens, max_tokens=12, timeout=30) as answer:
        assert list(answer) == made
        assert answer.usage is not None and sum(answer.usage.reuse.reused.values()) == 64
    cluster.at_rest()
