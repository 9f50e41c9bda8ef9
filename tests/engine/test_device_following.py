"""Planes followed over a transport while another engine writes them, on their way into a device's pages."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import Any

import pytest

from cachestore.codecs import create
from cachestore.engine import device_moves
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchProgress, BatchToken
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.first_token import FirstToken
from cachestore.engine.paged_model import PagedModel
from cachestore.eviction.lru import Lru
from cachestore.service.client import RemoteStore
from cachestore.service.remote_reading import RemoteReading
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from tests.engine.batches import NEW, SIZE, Directory, ended, figure, opened, prompt, request, serving

BLOCKS = 5


@pytest.fixture(params=["", "quantisation=int8,group=32"])
def model(request: pytest.FixtureRequest, model_dir: Directory) -> Iterator[PagedModel]:
    model = opened(model_dir("llama"), request.param)
    yield model
    model.close()


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set by the first plane that comes before its block was published."""
    came, planes = Event(), RemoteReading.planes

    def noted(self: RemoteReading) -> Iterator[Any]:
        for plane in planes(self):
            came.set()
            yield plane

    monkeypatch.setattr(RemoteReading, "planes", noted)
    return came


@contextmanager
def on_device(model: PagedModel) -> Iterator[BatchLoop]:
    with serving(model, chunk_tokens=SIZE) as loop:
        memory = loop._runner.memory
        memory.kernels, memory.moves = "naive", DeviceMoves(memory)
        yield loop
        assert figure(loop, "put_blocks_failed") == figure(loop, "fetches_failed") == 0


@pytest.mark.parametrize("codec", ["raw", "entropy"])
@pytest.mark.parametrize("way", ["shared", "bulk", "stream"])
def test_blocks_that_are_written_come_into_pages(
    way: str, codec: str, model: PagedModel, followed: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pages at a time. Only a stream brings planes before; else blocks are copied as soon as they are published."""
    monkeypatch.setattr(device_moves, "STAGED", 2 * sum(plane.raw_bytes for plane in model.spec.planes()))
    tokens, told = prompt(BLOCKS * SIZE + 3), FirstToken()
    follows = way == "stream" and not model.spec.recipe
    with on_device(model) as loop:
        wanted, _ = ended(loop.submit(request(tokens, NEW)))
    with ExitStack() as held:
        tiered = held.enter_context(TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()))
        # a put that writes nothing for so long would be cut off, and the one here waits for whoever follows
        server = held.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0, stall=60.0)))
        stores = [RemoteStore(server.address, transports=(way,), codec=codec) for _ in range(2)]
        writer, reader = map(held.enter_context, stores)
        prefill, decode = (held.enter_context(on_device(model)) for _ in range(2))
        step = prefill._runner.step

        def held_up(plan: Any, on_slot: Any) -> Any:
            computed = plan[0][0].computed

            def written(slot: int) -> None:
                on_slot(slot)
                # the rest of the block is written once this was seen
                assert computed != 2 * SIZE or followed.wait(20.0)

            return step(plan, written if follows and on_slot is not None else on_slot)

        monkeypatch.setattr(prefill._runner, "step", held_up)
        items = iter(prefill.submit(request(tokens, 1, store=writer, by_slot=True, settle=True)))
        begun = next(item for item in items if not isinstance(item, BatchProgress) or item.begun)
        waiting = decode.submit(request(tokens, NEW, store=reader, wait=40.0, first=told))
        drawn = next(item for item in (begun, *items) if isinstance(item, BatchToken))
        told.tell(drawn.id)
        made, usage = ended(waiting)
        assert made == wanted and usage.reused == {"cpu": BLOCKS * SIZE}
        # of what a recipe rounds, whole blocks are written, so that it depends on who is sooner
        assert followed.is_set() == follows or model.spec.recipe
