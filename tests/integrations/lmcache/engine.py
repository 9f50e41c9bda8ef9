"""LMCache's own engine, and the storage of its server, on a CPU, with KV that says which tokens it is of."""

import os
import time
import uuid
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

# read when LMCache is imported
os.environ.setdefault("LMCACHE_TRACK_USAGE", "false")
os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")

import numpy as np
import torch
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.distributed.api import GroupedObjectKeys, MemoryLayoutDesc, ObjectKey, PrefetchTaskSpec
from lmcache.v1.distributed.config import (
    DRAML1ManagerConfig,
    EvictionConfig,
    L1MemoryManagerConfig,
    StorageManagerConfig,
)
from lmcache.v1.distributed.l2_adapters.config import L2AdaptersConfig, get_l2_adapter_config_class
from lmcache.v1.distributed.storage_manager import StorageManager
from lmcache.v1.gpu_connector.gpu_connectors import GPUConnectorInterface
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.multiprocess.token_hasher import TokenHasher


class Shape(NamedTuple):
    layers: int = 2
    heads: int = 2
    head_dim: int = 8
    chunk_tokens: int = 16

    @property
    def chunk(self) -> torch.Size:
        """`[K/V, layers, tokens, heads * head_dim]`."""
        return torch.Size([2, self.layers, self.chunk_tokens, self.heads * self.head_dim])


SMALL = Shape()
PATIENT = {"timeout": "30s", "lookup_timeout": "30s"}
"""For a machine that is busy: what a store answers late is a miss."""
HASTY = {"timeout": "500ms", "lookup_timeout": "500ms"}
"""For stores that are gone."""


def content(label: bytes, shape: Shape) -> torch.Tensor:
    """The KV of one chunk, of which `label` says everything."""
    seed = np.frombuffer(sha256(label).digest(), dtype=np.uint64)
    numbers = np.random.Generator(np.random.Philox(key=seed[:2]))
    return torch.from_numpy(numbers.integers(0, 2**16, tuple(shape.chunk), dtype=np.uint16)).view(torch.bfloat16)


class WrongBytes(AssertionError):
    """What was loaded is not what was stored."""


def compare(found: torch.Tensor, wanted: torch.Tensor) -> None:
    if not torch.equal(found.view(torch.int16), wanted.view(torch.int16)):
        raise WrongBytes


class HostKV(GPUConnectorInterface):
    """Copies between LMCache's memory and a tensor in host memory, `[K/V, layers, tokens, heads * head_dim]`."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def from_gpu(self, memory_obj: Any, start: int, end: int, **given: Any) -> None:
        memory_obj.tensor.copy_(given["cache"][:, :, start:end])

    def to_gpu(self, memory_obj: Any, start: int, end: int, **given: Any) -> None:
        given["cache"][:, :, start:end].copy_(memory_obj.tensor)

    def batched_from_gpu(self, memory_objs: Any, starts: Any, ends: Any, **given: Any) -> None:
        for each in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(*each, **given)

    def batched_to_gpu(self, memory_objs: Any, starts: Any, ends: Any, **given: Any) -> None:
        for each in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(*each, **given)

    def get_shape(self, num_tokens: int) -> torch.Size:
        return torch.Size([2, self.shape.layers, num_tokens, self.shape.heads * self.shape.head_dim])


def engine_config(address: str, shape: Shape, own: dict[str, Any], **settings: Any) -> Any:
    prefix = "remote_storage_plugin.cachestore."
    extra = {
        "module_path": "cachestore.integrations.lmcache_connector",
        "class_name": "CacheStoreAdapter",
        "address": address,
        "revision": "one",
        **PATIENT,
        **own,
    }
    chosen: dict[str, Any] = {
        "chunk_size": shape.chunk_tokens,
        "local_cpu": False,
        "max_local_cpu_size": 0.0625,
        "blocking_timeout_secs": 60,
        "pre_caching_hash_algorithm": "sha256_cbor",
        "remote_storage_plugins": ["cachestore"],
        "extra_config": {prefix + name: value for name, value in extra.items()},
        **settings,
    }
    return LMCacheEngineConfig.from_defaults(**chosen)


class Engine:
    """LMCache inside an inference engine's process, with nothing but our store behind it."""

    def __init__(
        self,
        address: str,
        shape: Shape = SMALL,
        own: dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.shape, self.name = shape, uuid.uuid4().hex
        metadata = {
            "model_name": "model",
            "world_size": 1,
            "local_world_size": 1,
            "worker_id": 0,
            "local_worker_id": 0,
            "kv_dtype": torch.bfloat16,
            "kv_shape": (shape.layers, 2, shape.chunk_tokens, shape.heads, shape.head_dim),
            "chunk_size": shape.chunk_tokens,
            **(facts or {}),
        }
        self.engine = LMCacheEngineBuilder.get_or_create(
            self.name,
            engine_config(address, shape, own or {}, **settings),
            LMCacheMetadata(**metadata),
            HostKV(shape),
            lambda tensor, source: None,
            lambda obj, source: obj,
        )
        self.engine.post_init()
        self.backends = self.engine.storage_manager.storage_backends

    @property
    def connector(self) -> Any:
        backend = next(backend for name, backend in self.backends.items() if name.startswith("RemoteBackend"))
        return backend.connection.getWrappedConnector()

    def chunks(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        size = self.shape.chunk_tokens
        return [content(repr(list(tokens[:end])).encode(), self.shape) for end in range(size, len(tokens) + 1, size)]

    def keys(self, tokens: Sequence[int]) -> list[Any]:
        return [key for _, _, key in self.engine.token_database.process_tokens(tokens=list(tokens))]

    def begin_store(self, tokens: Sequence[int], **given: Any) -> int:
        """Hands the KV of a prompt to LMCache, which saves it by and by; how many chunks."""
        chunks = self.chunks(tokens)
        cache = torch.cat(chunks, dim=2)
        self.engine.store(tokens=list(tokens[: cache.shape[2]]), cache=cache, **given)
        return len(chunks)

    def store(self, tokens: Sequence[int], **given: Any) -> None:
        before = self.counted("saved_chunks", "dropped_chunks")
        count = self.begin_store(tokens, **given)
        wait_until(lambda: self.counted("saved_chunks", "dropped_chunks") >= before + count)

    def counted(self, *names: str) -> int:
        figures = self.connector.figures
        return sum(figures.get(name, 0) for name in names)

    def load(self, tokens: Sequence[int], **given: Any) -> int:
        """How many chunks came; their bytes are compared."""
        chunks, request = self.chunks(tokens), uuid.uuid4().hex
        wanted = torch.cat(chunks, dim=2)
        cache = torch.zeros_like(wanted)
        whole = list(tokens[: wanted.shape[2]])
        found = self.engine.lookup(tokens=whole, pin=True, lookup_id=request, **given)
        came = 0
        if found:
            mask = self.engine.retrieve(tokens=whole, cache=cache, req_id=request, **given)
            came = int(mask.sum())
            assert bool(mask[:came].all())
        self.engine.lookup_unpin(request)
        compare(cache[:, :, :came], wanted[:, :, :came])
        return came // self.shape.chunk_tokens

    def close(self) -> None:
        LMCacheEngineBuilder.destroy(self.name)


class Server:
    """The storage of LMCache's server: its memory, its controllers and our L2 adapter behind it."""

    def __init__(
        self,
        address: str,
        shape: Shape = SMALL,
        own: dict[str, Any] | None = None,
        faults: dict[str, Any] | None = None,
    ) -> None:
        self.shape = shape
        self.layout = MemoryLayoutDesc([shape.chunk], [torch.bfloat16])
        adapter: dict[str, Any] = {
            "type": "plugin",
            "module_path": "cachestore.integrations.lmcache_l2",
            "class_name": "CacheStoreL2Adapter",
            "adapter_params": {"address": address, "revision": "one", **PATIENT, **(own or {})},
        }
        if faults is not None:
            adapter = {"type": "fault_inject", "inner": adapter, **faults}
        l2 = get_l2_adapter_config_class(adapter["type"]).from_dict(adapter)
        memory = L1MemoryManagerConfig(32 << 20, use_lazy=False, shm_name=f"lmcache_{uuid.uuid4().hex}")
        self.storage = StorageManager(
            StorageManagerConfig(
                DRAML1ManagerConfig(memory),
                EvictionConfig("LRU"),
                L2AdaptersConfig([l2]),
                periodic_notifier_interval_ms=5,
            )
        )
        made = self.storage.l2_adapters()[0][1]
        self.adapter = getattr(made, "_inner", made)
        self.hasher = TokenHasher(shape.chunk_tokens)

    def keys(self, tokens: Sequence[int], model: str = "model", rank: int = 0, salt: str = "") -> list[ObjectKey]:
        return [
            ObjectKey(named, model, rank, cache_salt=salt) for named in self.hasher.compute_chunk_hashes(list(tokens))
        ]

    def store(self, keys: Sequence[ObjectKey]) -> None:
        """Into LMCache's memory, from there into the store, and out of LMCache's memory again."""
        before = self.done()
        given = self.storage.reserve_write(list(keys), self.layout)
        for key, memory in given.items():
            memory.tensor.copy_(content(_label(key), self.shape))
        self.storage.finish_write(list(given))
        wait_until(lambda: self.done() >= before + len(given))
        self.forget()

    def done(self) -> int:
        figures = self.adapter.figures
        return sum(figures.get(name, 0) for name in ("saved_chunks", "dropped_chunks", "refused"))

    def forget(self) -> None:
        (controller,) = self.storage._store_controllers.values()
        wait_until(lambda: controller.report_status()["in_flight_task_count"] == 0)
        self.storage.clear(force=True)

    def load(self, keys: Sequence[ObjectKey]) -> int:
        """How many leading objects came into LMCache's memory; their bytes are compared."""
        row = GroupedObjectKeys(list(keys), 0, self.layout)
        handle = self.storage.submit_prefetch_task(PrefetchTaskSpec([row]))
        assert self.storage.wait_prefetch_status(handle, 60.0)
        result = self.storage.query_prefetch_status(handle)
        assert result is not None
        came = [key for place, key in enumerate(keys) if result.hit_cells[0].test(place)]
        with self.storage.read_prefetched_results(came, result.l1_owners) as memories:
            assert memories is not None
            for key, memory in zip(came, memories, strict=True):
                compare(memory.tensor, content(_label(key), self.shape))
        self.storage.finish_read_prefetched(came, l1_owners=result.l1_owners)
        assert came == list(keys[: len(came)])
        return len(came)

    def close(self) -> None:
        self.storage.close()


def wait_until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, "LMCache did not go on"
        time.sleep(0.001)


def _label(key: ObjectKey) -> bytes:
    return repr((key.chunk_hash, key.model_name, key.kv_rank, key.cache_salt)).encode()
