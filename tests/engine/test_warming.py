"""What is launched before the loop serves, in Triton's interpreter: whatever serving launches was launched before."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cachestore.codecs import create
from cachestore.deadline import Deadline
from cachestore.engine import batch_loop
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.runner import Runner
from cachestore.engine.warming import Warming
from cachestore.eviction.lru import Lru
from cachestore.store.base import Store
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from tests.engine.batches import SIZE, Directory, ended, opened, prompt, request, serving
from tests.kernels.conftest import interpreting

Launch = tuple[object, ...]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Launch]]:
    """What Triton would have compiled: kernels with their constants and the types of what they take."""
    found: set[Launch] = set()
    with interpreting():
        from triton.runtime.interpreter import GridExecutor

        call = GridExecutor.__call__

        def noted(self: Any, *arguments: Any, **options: Any) -> None:
            types = tuple(each.dtype if isinstance(each, torch.Tensor) else type(each) for each in arguments)
            found.add((self.fn.__module__, self.fn.__name__, types, tuple(sorted(options.items()))))
            call(self, *arguments, **options)

        monkeypatch.setattr(GridExecutor, "__call__", noted)
        yield found


@pytest.fixture(params=["raw", "entropy"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with TieredStore(Cpu(16 << 20).start(), (), create(request.param), Lru()) as tiered:
        yield tiered.namespace("default")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("recipe", ["", pytest.param("quantisation=int8,group=32", marks=pytest.mark.slow)])
def test_serving_launches_nothing_new(
    recipe: str, model_dir: Directory, store: Store, launched: set[Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnDevice(Runner):
        def __init__(self, model: PagedModel, pages: int) -> None:
            super().__init__(model, pages)
            self.memory.kernels = "fused"
            self.memory.moves = DeviceMoves(self.memory)

    monkeypatch.setattr(batch_loop, "Runner", OnDevice)
    model = opened(model_dir("llama"), recipe)
    patient: dict[str, Any] = {"store_timeout": 60.0, "put_timeout": 60.0}
    with serving(model, pages=4, max_batch=2, chunk_tokens=SIZE, **patient) as loop:
        assert loop._runner.pool.free == 4 and not any(loop._runner.memory.buffer(page).any() for page in range(4))
        warmed = set(launched)
        assert warmed
        launched.clear()
        tokens = prompt(SIZE + 3)
        for _ in range(2):
            ended(loop.submit(request(tokens, 2, store=store, settle=True, deadline=Deadline.after(110.0))))
            loop._runner.pool.forget()
    assert launched and launched <= warmed
    model.close()


def test_without_kernels_nothing_is_computed(model_dir: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(model_dir("llama"))
    runner = Runner(model, 4)
    monkeypatch.setattr(model, "forward", None)
    Warming(runner, 32, 4).run()
    model.close()
