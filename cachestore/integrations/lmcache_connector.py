"""LMCache: our store behind its engine, as a remote storage plug-in. Tested with LMCache 0.5.6.

    remote_storage_plugins: ["cachestore"]
    pre_caching_hash_algorithm: sha256_cbor
    extra_config:
      remote_storage_plugin.cachestore.module_path: cachestore.integrations.lmcache_connector
      remote_storage_plugin.cachestore.class_name: CacheStoreAdapter
      remote_storage_plugin.cachestore.address: 127.0.0.1:7420
      remote_storage_plugin.cachestore.revision: ...

`revision` names the weights and all that the engine is told to compute KV by, of which LMCache tells nothing.

Bytes go between LMCache's memory objects and the store's memory, in threads of ours; its event loop only waits for
them. LMCache shows hashes only, so its chunks are opaque: shared by engines of the same LMCache version, model and
settings. It cuts every hash to 64 bits, which is enough against accident, and not against somebody who searches for
prompts that collide; its server keeps all 256.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from lmcache.utils import CacheEngineKey
from lmcache.v1.exceptions import IrrecoverableException
from lmcache.v1.storage_backend.connector import ConnectorAdapter, ConnectorContext
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

from cachestore.errors import CacheStoreError
from cachestore.integrations.client import remote_store
from cachestore.integrations.lmcache_chunks import Chunks, answers, chunk_spec, counted, flat
from cachestore.integrations.lmcache_settings import check_chunks, hash_algorithm, settings_of

PLUGIN = "cachestore"
PROBE = ("test", 0)
"""Model and hash with which LMCache's health check puts other bytes every time, and wants just these back."""

Keys = list[CacheEngineKey]
Memories = list[Any]
"""Memory objects of LMCache's."""


class CacheStoreAdapter(ConnectorAdapter):
    """Makes the connector for `plugin://cachestore`, and for further ones, `plugin://cachestore.<name>`."""

    def __init__(self) -> None:
        super().__init__(f"plugin://{PLUGIN}")

    def can_parse(self, url: str) -> bool:
        return url.removeprefix("plugin://").split(".")[0] == PLUGIN

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        try:
            return CacheStoreConnector(context)
        except CacheStoreError as error:
            # by any other exception LMCache would try the same settings again and again
            raise IrrecoverableException(str(error)) from error


class CacheStoreConnector(RemoteConnector):
    """LMCache's chunks in our store. A store that fails is a miss, counted in `figures`."""

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__(context.config, context.metadata)
        settings = settings_of(context.config, context.plugin_name or PLUGIN)
        algorithm = hash_algorithm(context.config)
        check_chunks(context.config)
        spec = chunk_spec(
            settings,
            context.metadata.model_name,
            self.meta_shapes,
            self.meta_dtypes,
            algorithm,
            format=self.meta_fmt.name,
            seed=os.environ.get("PYTHONHASHSEED", ""),
        )
        self._memory = context.local_cpu_backend
        self._store = remote_store(settings.address)
        self._store.open()
        self._chunks = Chunks(self._store, spec, self.full_chunk_size_bytes, settings)
        self._loads = ThreadPoolExecutor(settings.threads, thread_name_prefix="cachestore-lmcache-load")
        self._saves = ThreadPoolExecutor(settings.threads, thread_name_prefix="cachestore-lmcache-save")
        self._model, self._probe = context.metadata.model_name, ""

    @property
    def figures(self) -> dict[str, int]:
        """What was counted."""
        return counted(self._chunks.counters)

    async def exists(self, key: CacheEngineKey) -> bool:
        return await self.batched_async_contains("", [key]) == 1

    def exists_sync(self, key: CacheEngineKey) -> bool:
        return self.batched_contains([key]) == 1

    def support_batched_contains(self) -> bool:
        return True

    def batched_contains(self, keys: Keys) -> int:
        return self._chunks.leading(self._keys(keys))

    async def batched_async_contains(self, lookup_id: str, keys: Keys, pin: bool = False) -> int:
        return await asyncio.wrap_future(self._loads.submit(self.batched_contains, keys))

    async def get(self, key: CacheEngineKey) -> Any:
        return (await self.batched_get([key]))[0]

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: Keys) -> Memories:
        found = await self.batched_get_non_blocking("", keys)
        return found + [None] * (len(keys) - len(found))

    async def batched_get_non_blocking(self, lookup_id: str, keys: Keys) -> Memories:
        """The leading chunks that are there."""
        loading = self._loads.submit(self._load, self._keys(keys))
        try:
            return await asyncio.wrap_future(loading)
        except asyncio.CancelledError:
            # the thread goes on into memory that nobody will take
            loading.add_done_callback(_give_back)
            raise

    async def put(self, key: CacheEngineKey, memory_obj: Any) -> None:
        await self.batched_put([key], [memory_obj])

    def support_batched_put(self) -> bool:
        return True

    async def batched_put(self, keys: Keys, memory_objs: Memories) -> None:
        if any(map(_is_probe, keys)):
            # the store keeps what came first
            self._probe = uuid4().hex
        named = self._keys(keys)
        for memory in memory_objs:
            memory.ref_count_up()
        saving = self._saves.submit(lambda: self._chunks.save(named, [flat(memory) for memory in memory_objs]))
        # not when the caller ends: it may be cancelled while the thread still reads
        saving.add_done_callback(lambda _: _release(memory_objs))
        await asyncio.wrap_future(saving)

    def support_ping(self) -> bool:
        return True

    async def ping(self) -> int:
        """Zero if the store answers."""
        asked = self._loads.submit(answers, self._store, self._chunks.settings.lookup_timeout)
        return 0 if await asyncio.wrap_future(asked) else 1

    def remove_sync(self, key: CacheEngineKey) -> bool:
        return self._chunks.delete(self._keys([key])) == 1

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._loads.shutdown()
        self._saves.shutdown()
        self._store.close()

    def _load(self, keys: Sequence[bytes]) -> Memories:
        """The leading chunks, in memory of LMCache's as far as it has room."""
        given: Memories = []
        came = 0
        try:
            while len(given) < len(keys):
                # waiting for room could be for ever: this very batch may have taken it
                memory = self._memory.allocate(self.meta_shapes, self.meta_dtypes, self.meta_fmt, busy_loop=False)
                if memory is None:
                    self._chunks.counters.add("no_room_chunks", len(keys) - len(given))
                    break
                given.append(memory)
            came = self._chunks.load(keys[: len(given)], [flat(memory) for memory in given])
            return given[:came]
        finally:
            _release(given[came:])

    def _keys(self, keys: Sequence[CacheEngineKey]) -> "list[bytes]":
        return [self._key(key) for key in keys]

    def _key(self, key: CacheEngineKey) -> bytes:
        """Everything that a key of LMCache's says; its own text for that is ambiguous where a tag has `@` in it."""
        # the engine's own model is in the spec, by a name that does not depend on where it lies
        model = "" if key.model_name == self._model else key.model_name
        said = [model, key.world_size, key.worker_id, key.chunk_hash, str(key.dtype), key.tags]
        return json.dumps([*said, self._probe] if _is_probe(key) else said, default=str).encode()

    async def list(self) -> list[str]:
        """Nothing: the store keeps keys of LMCache's as hashes."""
        return []


def _is_probe(key: CacheEngineKey) -> bool:
    return (key.model_name, key.chunk_hash) == PROBE


def _release(memories: Sequence[Any]) -> None:
    for memory in memories:
        memory.ref_count_down()


def _give_back(loading: Future[Memories]) -> None:
    if not loading.cancelled() and loading.exception() is None:
        _release(loading.result())
