"""LMCache's own engine drives our connector: what it stored comes back byte for byte, or not at all."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

pytest.importorskip("lmcache", reason="LMCache is not installed here: make integrations")

from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.exceptions import IrrecoverableException
from lmcache.v1.health_monitor.checks.remote_backend_check import RemoteBackendHealthCheck
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector import CreateConnector

from cachestore.block import Buffer
from cachestore.integrations.opaque import OpaquePages
from cachestore.metrics import total
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from tests.integrations.conftest import Served
from tests.integrations.lmcache.engine import HASTY, Engine, Shape, WrongBytes, engine_config, wait_until

pytestmark = pytest.mark.slow

SHAPE = Shape()
EXAMPLE = Path(__file__).parents[3] / "examples" / "integrations" / "lmcache.yaml"
Make = Callable[..., Engine]


def prompt(number: int, chunks: int) -> list[int]:
    return random.Random(number).choices(range(1000), k=chunks * SHAPE.chunk_tokens)


@pytest.fixture
def engine(served: Served) -> Iterator[Make]:
    made: list[Engine] = []

    def make(**own: Any) -> Engine:
        made.append(Engine(served.address, **own))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_chunks_come_back_also_to_another_engine(engine: Make) -> None:
    one, two = engine(), engine()
    tokens = prompt(1, 6)
    assert one.load(tokens) == 0
    one.store(tokens)
    assert one.load(tokens) == 6
    assert two.load(tokens + prompt(2, 2)) == 6
    assert two.load(tokens[16:]) == 0
    assert two.counted("loaded_chunks") == 6


def test_other_settings_share_nothing(engine: Make) -> None:
    one, tokens = engine(), prompt(1, 3)
    one.store(tokens)
    for given in (
        {"own": {"revision": "two"}},
        {"facts": {"model_name": "other"}},
        {"facts": {"world_size": 2, "worker_id": 1}},
        {"facts": {"kv_dtype": torch.float16}},
        {"shape": Shape(layers=1, heads=4)},
        {"pre_caching_hash_algorithm": "sha256"},
    ):
        assert engine(**given).load(tokens) == 0, given
    assert engine().load(tokens) == 3


def test_tags_of_requests_are_in_the_keys(engine: Make) -> None:
    one, tokens = engine(), prompt(1, 2)
    tag = {"request_configs": {"lmcache.tag.a": "1", "lmcache.tag.b": "2"}}
    one.store(tokens, **tag)
    # LMCache's own text is the same for both
    assert one.load(tokens, request_configs={"lmcache.tag.a": "1@b%2"}) == 0
    assert one.load(tokens) == 0
    assert one.load(tokens, **tag) == 2


@pytest.mark.parametrize(
    "settings, own, message",
    [
        ({"pre_caching_hash_algorithm": "builtin"}, {}, "pre_caching_hash_algorithm: builtin .* set it to sha256_cbor"),
        ({"pre_caching_hash_algorithm": "xxhash"}, {}, "pre_caching_hash_algorithm: xxhash"),
        ({"remote_serde": "cachegen"}, {}, "remote_serde: .* set it to naive"),
        ({"save_unfull_chunk": True}, {}, "save_unfull_chunk: set it to false"),
        ({"use_layerwise": True}, {}, "use_layerwise: set it to false"),
        ({"enable_blending": True}, {}, "enable_blending: set it to false"),
        ({}, {"adress": "x"}, "remote_storage_plugin.cachestore.adress"),
        ({}, {"timeout": "soon"}, "remote_storage_plugin.cachestore.timeout"),
        ({}, {"revision": ""}, "cachestore.revision: LMCache does not say which weights"),
        ({}, {"address": ""}, "address: name the store"),
    ],
)
def test_settings_are_refused(settings: dict[str, Any], own: dict[str, Any], message: str) -> None:
    with pytest.raises(IrrecoverableException, match=message):
        connect(**settings, own=own)


def test_lmcache_falling_back_to_builtin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm.utils.hashing", None)
    with pytest.raises(IrrecoverableException, match="from vLLM, which cannot be imported here"):
        connect()


def test_the_example_is_taken_once_it_has_a_revision() -> None:
    config = LMCacheEngineConfig.from_file(str(EXAMPLE))
    with pytest.raises(
        IrrecoverableException, match=r"remote_storage_plugin\.cachestore\.revision: LMCache does not say"
    ):
        connected(config)
    config.extra_config["remote_storage_plugin.cachestore.revision"] = "one"
    assert connected(config).support_ping()


def test_not_even_the_files_of_a_model_or_its_commit_name_what_an_engine_computes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for model in (str(tmp_path), "company/model"):
        with pytest.raises(IrrecoverableException, match="nor by which settings its engine computes"):
            connected(engine_config("127.0.0.1:1", SHAPE, {"revision": ""}), model)


def test_settings_of_another_plug_in_are_no_concern() -> None:
    assert connect(own={"second.adress": "x"}).support_ping()


def connect(own: dict[str, Any] | None = None, **settings: Any) -> Any:
    return connected(engine_config("127.0.0.1:1", SHAPE, own or {}, **settings))


def connected(config: Any, model: str = "model") -> Any:
    kv_shape = (SHAPE.layers, 2, SHAPE.chunk_tokens, SHAPE.heads, SHAPE.head_dim)
    metadata = LMCacheMetadata(model, 1, 1, 0, 0, torch.bfloat16, kv_shape, chunk_size=SHAPE.chunk_tokens)
    with asyncio.Runner() as runner:
        return CreateConnector(
            "plugin://cachestore", runner.get_loop(), None, config, metadata, plugin_name="cachestore"
        )


def test_an_engine_whose_settings_are_refused_goes_on_without_the_store(engine: Make) -> None:
    one = engine(pre_caching_hash_algorithm="builtin")
    assert list(one.backends) == ["LocalCPUBackend"]
    one.begin_store(prompt(1, 2))
    assert one.load(prompt(1, 2)) == 0


def test_a_store_that_goes_away_is_a_miss_and_comes_back(engine: Make, served: Served) -> None:
    one, tokens = engine(own=HASTY), prompt(1, 4)
    one.store(tokens)
    port = int(served.address.rsplit(":", 1)[1])
    served.stop()
    assert one.load(tokens) == 0
    one.store(prompt(2, 2))
    assert one.counted("dropped_chunks") == 2
    assert one.counted("failures.lookup") and one.counted("failures.save")
    with CacheStoreServer(served.store, ServiceSettings(port=port), "test"):
        wait_until(lambda: one.load(tokens) == 4)


def test_a_store_that_dies_in_the_midst_gives_no_wrong_bytes(engine: Make, served: Served) -> None:
    engines = [engine(own=HASTY) for _ in range(2)]
    for number in range(6):
        engines[0].store(prompt(number, 8))
    begun, over = Event(), Event()

    def load(one: Engine) -> int:
        came = 0
        while not over.is_set():
            for number in range(6):
                came += one.load(prompt(number, 8))
                one.begin_store(prompt(100 + number, 2))
            begun.set()
        return came

    with ThreadPoolExecutor(2) as threads:
        loads = [threads.submit(load, one) for one in engines]
        begun.wait(60)
        served.stop()
        time.sleep(0.2)
        over.set()
        assert all(each.result(timeout=60) for each in loads)


def rooms(one: Engine) -> int:
    """How many chunks LMCache's memory has room for."""
    given, memory = [], one.backends["LocalCPUBackend"]
    metadata = one.engine.metadata
    while found := memory.allocate(metadata.get_shapes(), metadata.get_dtypes(), busy_loop=False):
        given.append(found)
    for each in given:
        each.ref_count_down()
    return len(given)


def get(one: Engine, tokens: Sequence[int]) -> Any:
    backend = one.backends["RemoteBackend-cachestore"]
    return asyncio.run_coroutine_threadsafe(backend.connection.batched_get(one.keys(tokens)), backend.loop)


LARGE = Shape(layers=32, heads=8, head_dim=128)


def test_without_room_less_is_loaded(engine: Make) -> None:
    one = engine(shape=LARGE)
    tokens, free = prompt(1, 8), rooms(one)
    one.store(tokens)
    memory, metadata = one.backends["LocalCPUBackend"], one.engine.metadata
    taken = [memory.allocate(metadata.get_shapes(), metadata.get_dtypes()) for _ in range(free - 3)]
    found = get(one, tokens).result(60)
    assert [each is not None for each in found] == [True] * 3 + [False] * 5
    assert one.counted("no_room_chunks") == 5
    for each in (*taken, *found[:3]):
        each.ref_count_down()
    assert rooms(one) == free


def test_a_load_that_lmcache_gives_up_keeps_its_memory_until_it_ends(
    engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = engine(shape=LARGE)
    tokens, free = prompt(1, 4), rooms(one)
    one.store(tokens)
    wait_until(lambda: rooms(one) == free)
    chunks, begun, go = one.connector._chunks, Event(), Event()
    load = chunks.load

    def late(*given: Any) -> int:
        begun.set()
        go.wait(60)
        return int(load(*given))

    monkeypatch.setattr(chunks, "load", late)
    loading = get(one, tokens)
    assert begun.wait(60)
    loading.cancel()
    assert rooms(one) == free - 4
    go.set()
    wait_until(lambda: rooms(one) == free)


def test_the_health_check_of_lmcache_recovers_more_than_once(engine: Make, served: Served) -> None:
    one = engine(own=HASTY)
    one.engine.config.extra_config["waiting_time_for_recovery"] = 0.0
    check = RemoteBackendHealthCheck(one.backends["RemoteBackend-cachestore"])
    memory, metadata = one.backends["LocalCPUBackend"], one.engine.metadata
    assert check.check()
    for number in range(3):
        dirty = [memory.allocate(metadata.get_shapes(), metadata.get_dtypes()) for _ in range(4)]
        for each in dirty:
            each.tensor.fill_(number)
            each.ref_count_down()
        check.failure_time = time.time() - 1
        assert check.check()
    served.stop()
    assert not check.check()


def test_what_is_removed_is_gone(engine: Make, served: Served) -> None:
    one, tokens = engine(), prompt(1, 3)
    one.store(tokens)
    assert one.connector.remove_sync(one.keys(tokens)[2])
    assert not one.connector.remove_sync(one.keys(tokens)[2])
    assert one.load(tokens) == 2
    assert one.connector.exists_sync(one.keys(tokens)[1])
    assert total(list(served.store.namespace("default").stats()), "put_stored") == 3


def test_no_wrong_bytes_in_many_operations_at_once(engine: Make) -> None:
    engines = [engine(), engine(own={"threads": 1}), engine(local_cpu=True)]

    def work(number: int) -> int:
        choose, came = random.Random(number), 0
        for _ in range(60):
            tokens = prompt(choose.randrange(8), 6)[: 16 * choose.randrange(1, 7)]
            if choose.random() < 0.4:
                engines[number].begin_store(tokens)
            else:
                came += engines[number].load(tokens)
        return came

    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(work, range(3))) > 0


def test_a_wrong_byte_would_be_seen(engine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine()
    one.store(prompt(1, 3))
    read = OpaquePages.read

    def spoiled(pages: OpaquePages, keys: Sequence[bytes], into: Sequence[Buffer]) -> int:
        came = read(pages, keys, into)
        into[came - 1][-1] ^= 1
        return came

    monkeypatch.setattr(OpaquePages, "read", spoiled)
    with pytest.raises(WrongBytes):
        one.load(prompt(1, 3))
