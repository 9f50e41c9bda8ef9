"""A device that a fault took from the process: requests end with an error, and the worker says that it is not well."""

from types import SimpleNamespace

import pytest

from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.paged_model import PagedModel
from cachestore.errors import InternalError
from cachestore.store.tiered import TieredStore
from prefill_worker.base import Worker
from prefill_worker.stores import Stores
from tests.engine.batches import ended, prompt, request, serving


@pytest.mark.parametrize("lost", [True, False])
def test_a_worker_whose_device_is_lost_is_not_well(
    lost: bool, model: PagedModel, tiered: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def record(self) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def fails(*arguments: object) -> None:
        raise RuntimeError("of one step, or of all from now on")

    with serving(model) as loop:
        moves = loop._runner.memory.moves = DeviceMoves(loop._runner.memory)
        worker = Worker(model, loop, Stores(tiered.namespace("default"), ""), 1)
        assert worker.healthy
        with monkeypatch.context() as patch:
            patch.setattr(model, "forward", fails)
            if lost:
                patch.setattr(moves, "streams", SimpleNamespace(Event=Broken))
            with pytest.raises(InternalError):
                ended(loop.submit(request(prompt(20), 2)))
            assert worker.healthy is not lost
        assert len(ended(loop.submit(request(prompt(20), 2)))[0]) == 2
