"""Coded blocks read into pages of a device: decoded there, and verified there, over every way to the store."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Buffer, Slot
from cachestore.codecs import create
from cachestore.codecs.base import Codec
from cachestore.codecs.decoding_buffer import DecodingBuffer
from cachestore.codecs.entropy import Entropy
from cachestore.codecs.lossy import codec_for
from cachestore.deadline import Deadline
from cachestore.engine import device_moves
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.fetching import Fetching, Segment
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.store_jobs import Fetch, MemoryPut
from cachestore.eviction.lru import Lru
from cachestore.hashing import chain
from cachestore.index import Name
from cachestore.metrics import Counters, total
from cachestore.seal import Header
from cachestore.service.client import RemoteStore
from cachestore.service.pages.owner_store import OwnerStore
from cachestore.service.pages.reader_store import ReaderStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.apart import into_one
from cachestore.store.base import PutStatus, Store
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from cachestore.tiers.gpu import Gpu
from cachestore_kernels.method import Method
from tests.kernels.conftest import interpreting

SPEC = BlockSpec("m", "r", "float16", (Slot(2, 32, 32), Slot(2, 32, 32)), 2, block_tokens=32)
ODD = replace(SPEC, slots=(Slot(2, 32, 32), Slot(2, 32, 24)))
INT8 = "quantisation=int8,group=32"
TOKENS = range(4 * 32)
PAGES = [2, 0, 3, 5]
INTO = [1, 5, 4, 0]


@pytest.fixture(scope="module", params=["naive", pytest.param("fused", marks=pytest.mark.slow)])
def method(request: pytest.FixtureRequest) -> Iterator[Method]:
    with interpreting():
        yield request.param


@pytest.fixture
def tiered() -> Iterator[TieredStore]:
    with TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as tiered:
        yield tiered


@pytest.fixture(params=["here", "shared", "bulk", "stream"])
def store(request: pytest.FixtureRequest, tiered: TieredStore) -> Iterator[Store]:
    with ExitStack() as held:
        if request.param == "here":
            yield tiered.namespace("default")
            return
        server = held.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0)))
        yield held.enter_context(RemoteStore(server.address, transports=(request.param,)))


@pytest.fixture
def kernels_decode(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which of the blocks that kernels were given held."""
    decode, told = device_moves.decode_pages, list[bool]()

    def watched(*arguments: Any, **options: Any) -> list[bool]:
        held = decode(*arguments, **options)
        told.extend(held)
        return held

    monkeypatch.setattr(device_moves, "decode_pages", watched)
    return told


def written(spec: BlockSpec, store: Store, raw: Sequence[int] = ()) -> None:
    """Puts `PAGES` of a memory on the CPU, those numbered in `raw` as they are."""
    memory = PageMemory(spec, 6, torch.device("cpu"))
    random = np.random.default_rng(3)
    for page in range(6):
        values = random.standard_normal(memory.page_bytes(spec) // 2).astype(np.float16)
        memory.buffer(page)[:] = values.view(np.uint8)
    keys, codec = chain(spec, TOKENS), codec_for(spec) or Entropy()
    for number, page in enumerate(PAGES):
        coded: Any = Coded(store, create("raw") if number in raw else codec)
        assert MemoryPut(coded, memory, keys, number, [page], Deadline.after(20.0)).run() == [PutStatus.STORED]


class Coded:
    """A store whose puts are coded so."""

    def __init__(self, store: Store, codec: Codec) -> None:
        self.put = partial(store.put, codec=codec)


def fetched(spec: BlockSpec, store: Store, method: Method | None) -> tuple[PageMemory, Fetch]:
    """Another memory into whose pages `INTO` they are read."""
    memory = PageMemory(spec, 6, torch.device("cpu"))
    memory.kernels = method
    memory.moves = DeviceMoves(memory)
    incoming = memory.moves.incoming(INTO, memory.moves.mark())
    fetch = Fetch(
        store, chain(spec, TOKENS), 0, incoming, Fetching(Counters(), 32, False), lambda: True, Deadline.after(20.0),
        segments=[Segment(0, 4, "cpu")],
    )  # fmt: skip
    fetch.run()
    assert fetch.error is None
    return memory, fetch


def read(spec: BlockSpec, store: Store) -> list[Buffer]:
    with store.read(chain(spec, TOKENS)) as reading:
        return [np.concatenate(loaded.block.data) for loaded in reading]


@pytest.mark.parametrize("recipe", ["", INT8])
def test_what_is_stored_is_decoded_where_it_is_wanted(
    recipe: str, method: Method, store: Store, kernels_decode: list[bool]
) -> None:
    spec = replace(SPEC, recipe=recipe)
    written(spec, store)
    memory, fetch = fetched(spec, store, method)
    assert fetch.tiers == ["cpu"] * 4 and kernels_decode == [True] * 4
    for page, block in zip(INTO, read(spec, store), strict=True):
        assert np.array_equal(memory.buffer(page), block)
    assert not memory.buffer(2).any() and not memory.buffer(3).any()


@pytest.mark.parametrize("raw", [(0, 1), (1,), (0, 2), (3,)])
def test_what_is_stored_raw_comes_between(
    raw: Sequence[int], method: Method, store: Store, kernels_decode: list[bool]
) -> None:
    written(SPEC, store, raw)
    memory, fetch = fetched(SPEC, store, method)
    assert fetch.tiers == ["cpu"] * 4 and kernels_decode == [True] * (4 - len(raw))
    for page, block in zip(INTO, read(SPEC, store), strict=True):
        assert np.array_equal(memory.buffer(page), block)


@pytest.mark.parametrize("recipe", ["", INT8])
def test_without_kernels_the_host_decodes(recipe: str, store: Store, kernels_decode: list[bool]) -> None:
    spec = replace(SPEC, recipe=recipe)
    written(spec, store)
    memory, fetch = fetched(spec, store, None)
    assert fetch.tiers == ["cpu"] * 4 and kernels_decode == []
    for page, block in zip(INTO, read(spec, store), strict=True):
        assert np.array_equal(memory.buffer(page), block)


def test_planes_that_no_kernel_takes_are_the_hosts(method: Method, store: Store) -> None:
    spec = replace(ODD, recipe=INT8)
    written(spec, store)
    memory, fetch = fetched(spec, store, method)
    assert fetch.tiers == ["cpu"] * 4
    for page, block in zip(INTO, read(spec, store), strict=True):
        assert np.array_equal(memory.buffer(page), block)


@pytest.mark.parametrize("recipe", ["", INT8])
def test_what_does_not_hold_on_the_device_is_a_miss_and_counted(
    recipe: str, method: Method, store: Store, tiered: TieredStore, kernels_decode: list[bool]
) -> None:
    spec = replace(SPEC, recipe=recipe)
    written(spec, store)
    entry = tiered.index.get(Name(tiered.namespace("default").namespace, chain(spec, TOKENS).keys[2]))
    assert entry is not None
    data: Any = entry.slot.bytes
    header = Header.parse(bytes(data))
    last = header.stored([len(header.table) - 1])[0]
    data[header.size + last.offset + last.stored_bytes - 1] ^= 1
    _, fetch = fetched(spec, store, method)
    assert fetch.tiers == ["cpu"] * 2 and kernels_decode.count(True) == 2
    assert total(tiered.namespace("default").stats(), "corruptions") == 1


def test_a_buffer_whose_block_was_decoded_can_be_filled_after_all() -> None:
    class Anywhere:
        def decode(self, planes: object, coded: object) -> bool:
            return True

        def page(self, device: torch.device) -> torch.Tensor:
            return torch.zeros(4, dtype=torch.uint8)

    buffer = DecodingBuffer.of(np.zeros(4, dtype=np.uint8), Anywhere())
    assert buffer.decode([], []) and buffer.taken and buffer.page(torch.device("cpu")) is not None
    assert into_one([buffer], 0) is buffer and not buffer.taken
    assert buffer[:2].decode([], []) is None is buffer[:2].page(torch.device("cpu"))


def test_a_page_of_another_worker_is_copied_into_its_own(tiered: TieredStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one device nothing goes by way of the host."""
    monkeypatch.delattr(PageMemory, "scattered")
    with ExitStack() as held:
        server = held.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0)))
        tier = Gpu(capacity=8 << 20, device="cpu").start(Lru())
        tier.open(lambda departures: None)
        held.callback(tier.close)
        owner = held.enter_context(OwnerStore(server.address, tier, "cpu"))
        written(SPEC, owner, range(4))
        reader = held.enter_context(ReaderStore(server.address, "cpu"))
        memory, fetch = fetched(SPEC, reader, "naive")
        assert fetch.tiers == ["gpu"] * 4
        for page, block in zip(INTO, read(SPEC, tiered.namespace("default")), strict=True):
            assert np.array_equal(memory.buffer(page), block)
        assert not memory.buffer(2).any() and not memory.buffer(3).any()
