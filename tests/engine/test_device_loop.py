"""The serving loop on a device, in Triton's interpreter: its tokens and blocks are those of one on the CPU.

Attention, moves and codecs are the kernels', and the moves those of a device. Whoever saves, any other goes on from it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from cachestore.block import Buffer
from cachestore.codecs import create
from cachestore.deadline import Deadline
from cachestore.engine import device_moves
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchProgress, BatchRequest, BatchToken
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.first_token import FirstToken
from cachestore.engine.paged_model import PagedModel
from cachestore.eviction.lru import Lru
from cachestore.hashing import chain
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Store
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from cachestore_kernels.method import Method
from tests.engine.batches import SIZE, Directory, alone, ended, figure, opened, prompt, request, serving
from tests.kernels.conftest import interpreting

NEW = 6
BLOCKS = 3
LENGTH = BLOCKS * SIZE + 3
LONG = 110.0
"""Seconds that the interpreter may take."""

METHODS: list[Method | None] = [None, "naive", "fused"]
"""None is the CPU's own."""

SLOW = pytest.mark.slow
WAYS = [("here", ""), ("shared", ""), ("bulk", ""), ("stream", ""), ("here", "quantisation=int8,group=32")]
"""With a recipe the interpreter takes long: `test_device_decoding.py` looks at what comes coded over each way."""


@pytest.fixture(scope="module", autouse=True)
def _interpreted() -> Iterator[None]:
    with interpreting():
        yield


@pytest.fixture(
    scope="module",
    params=[WAYS[0], *(pytest.param(way, marks=SLOW) for way in WAYS[1:])],
    ids=lambda way: "-".join(way),
)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    """How blocks come to the store, and the recipe."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def computing(way: tuple[str, str], model_dir: Directory) -> Iterator[PagedModel]:
    model = opened(model_dir("llama"), way[1])
    yield model
    model.close()


@pytest.fixture
def store(way: tuple[str, str]) -> Iterator[Store]:
    with TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as tiered, ExitStack() as held:
        if way[0] == "here":
            yield tiered.namespace("default")
            return
        # so long may a put say nothing, while the interpreter computes
        server = held.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0, stall=LONG)))
        yield held.enter_context(RemoteStore(server.address, transports=(way[0],)))


@pytest.fixture(autouse=True)
def _small_moves(monkeypatch: pytest.MonkeyPatch, computing: PagedModel) -> None:
    """Two pages at a time."""
    monkeypatch.setattr(device_moves, "STAGED", 2 * sum(plane.raw_bytes for plane in computing.spec.planes()))


@contextmanager
def on(method: Method | None, model: PagedModel) -> Iterator[BatchLoop]:
    # the interpreter takes its time to decode
    with serving(model, store_timeout=60.0, put_timeout=60.0) as loop:
        memory = loop._runner.memory
        memory.kernels = method
        if method is not None:
            memory.moves = DeviceMoves(memory)
        yield loop
        assert figure(loop, "put_blocks_failed") == figure(loop, "fetches_failed") == 0


def stored(store: Store, model: PagedModel, tokens: list[int]) -> list[Buffer]:
    with store.read(chain(model.spec, tokens)) as reading:
        return [np.concatenate(loaded.block.data) for loaded in reading]


def near(one: list[Buffer], other: list[Buffer], exact: bool) -> bool:
    """Whether blocks hold the same, but for how kernels round. One value in many may round to the next step."""
    pairs = [(a.view(np.float32), b.view(np.float32)) for a, b in zip(one, other, strict=True)]
    return all((np.isclose(a, b, atol=1e-4)).mean() > (1.0 if exact else 0.97) - 1e-9 for a, b in pairs)


@pytest.mark.parametrize("saver", [pytest.param(None, marks=SLOW), pytest.param("naive", marks=SLOW), "fused"])
def test_who_goes_on_from_what_another_saved_says_the_same(
    saver: Method | None, computing: PagedModel, model_dir: Directory, store: Store
) -> None:
    tokens, whole = prompt(LENGTH), BLOCKS * SIZE
    with on(None, computing) as loop:
        wanted, _ = ended(loop.submit(asked(tokens, NEW, store=store, settle=True)))
    if not computing.spec.recipe:
        assert wanted == alone(model_dir("llama"), tokens, NEW)
    blocks = stored(store, computing, tokens)
    assert len(blocks) == BLOCKS and store.delete(chain(computing.spec, tokens)) == BLOCKS
    with on(saver, computing) as loop:
        cold, usage = ended(loop.submit(asked(tokens, NEW, store=store, settle=True)))
        assert cold == wanted and usage.computed_tokens == LENGTH
    assert near(stored(store, computing, tokens), blocks, not computing.spec.recipe)
    for method in METHODS:
        with on(method, computing) as loop:
            warm, usage = ended(loop.submit(asked(tokens, NEW, store=store, settle=True)))
            assert warm == wanted and usage.reused == {"cpu": whole}


@pytest.mark.parametrize(
    ("first", "second"),
    [("fused", "fused"), pytest.param(None, "fused", marks=SLOW), pytest.param("fused", None, marks=SLOW)],
)
def test_a_handoff_slot_by_slot(
    first: Method | None, second: Method | None, computing: PagedModel, store: Store
) -> None:
    tokens, told = prompt(LENGTH, 2), FirstToken()
    with on(None, computing) as loop:
        wanted, _ = ended(loop.submit(request(tokens, NEW)))
    with on(first, computing) as prefill, on(second, computing) as decode:
        handing = prefill.submit(asked(tokens, 1, store=store, by_slot=True, settle=True))
        items = iter(handing)
        begun = next(item for item in items if not isinstance(item, BatchProgress) or item.begun)
        waiting = decode.submit(asked(tokens, NEW, store=store, wait=LONG, first=told))
        drawn = [item for item in (begun, *items) if isinstance(item, BatchToken)]
        told.tell(drawn[0].id)
        made, usage = ended(waiting)
        assert made == wanted and sum(usage.reused.values()) == BLOCKS * SIZE


def asked(tokens: list[int], new: int, **fields: Any) -> BatchRequest:
    """A request that the interpreter may take long for."""
    return request(tokens, new, deadline=Deadline.after(LONG), **fields)
