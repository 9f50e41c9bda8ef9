"""SGLang: our store behind its hierarchical cache, as a storage backend that it loads by name.

    --enable-hierarchical-cache --hicache-mem-layout page_first --hicache-storage-backend dynamic
    --hicache-storage-backend-extra-config '{"backend_name": "cachestore", "interface_v1": 1,
        "module_path": "cachestore.integrations.sglang", "class_name": "CacheStoreBackend",
        "address": "127.0.0.1:7420"}'

SGLang moves KV between GPU and host memory; this moves pages between host memory and the store, a batch a call, in
SGLang's threads for prefetch and backup. It sees hashes only, so its pages are opaque: shared by engines of the same
SGLang version, model, layout and rank, and with nobody else. Tested with SGLang 0.5.23.

What it does not know is refused when it is attached. After that nothing is raised into SGLang: a store that fails, or
that does not answer in time, is a miss or a page not saved, and counted. So is everything once SGLang notes that its
weights were replaced, until the backend is attached again.
"""

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, TypeVar

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, PoolName
from sglang.srt.observability.metrics_collector import StorageMetrics

from cachestore.block import Buffer
from cachestore.errors import CacheStoreError, ConfigError
from cachestore.integrations.client import remote_store
from cachestore.integrations.sglang_host import HostPages, as_bytes, pieces
from cachestore.integrations.sglang_naming import engine_keys, opaque_spec, settings_of
from cachestore.integrations.sglang_pages import RunPages
from cachestore.integrations.sglang_revision import replacements
from cachestore.metrics import Counters, Figure

_log = logging.getLogger(__name__)
T = TypeVar("T")


class CacheStoreBackend(HiCacheStorage):
    """Pages of SGLang's host memory, in our store; safe for use by several threads.

    It is ready once its host pool is registered, as SGLang does before anything else.
    """

    def __init__(self, storage_config: Any, kwargs: Any = None) -> None:
        self._config = storage_config
        self._settings = settings_of(storage_config)
        self._store = remote_store(self._settings.address)
        self._store.open()
        self._counters = Counters()
        self._lock = Lock()
        self._metrics = StorageMetrics()
        self._told = False

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Learns what a page is. ConfigError or Mismatch, which keep the backend from being attached, if unknown."""
        super().register_mem_pool_host(mem_pool_host)
        self._host = HostPages(mem_pool_host)
        if self._config.extra_config.get("interface_v1") and not self._host.in_place:
            raise ConfigError(
                f"interface_v1: pages of --hicache-mem-layout {mem_pool_host.layout} do not lie in one place; choose "
                "page_first or page_first_direct, or leave interface_v1 out"
            )
        self._host.prove()
        spec = opaque_spec(self._config, self._host, self._settings)
        self._replacements = replacements()
        self._pages = RunPages(
            self._store, spec, self._host.runs, self._settings.timeout, self._settings.lookup_timeout
        )

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """ConfigError for anything but the pool of KV: a prefix without its other state could not be gone on from."""
        if host_pool_name != PoolName.KV:
            raise ConfigError(
                f"SGLang keeps state of this model in the pool {str(host_pool_name)!r} beside its KV (sliding windows, "
                "recurrent layers, an indexer, a draft model), which this backend does not store; start without it, "
                "or without --hicache-storage-backend"
            )

    def exists(self, key: str) -> bool:
        return self.batch_exists([key]) == 1

    def batch_exists(self, keys: list[str], extra_info: Any = None) -> int:
        found = self._of_these_weights("lookup", lambda: self._pages.leading(engine_keys(keys)), 0)
        self._counters.add("lookup_pages", len(keys))
        self._counters.add("found_pages", found)
        return found

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> torch.Tensor | None:
        return self.batch_get([key], None if target_location is None else [target_location])[0]

    def batch_get(
        self, keys: list[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[torch.Tensor | None]:
        def load() -> int:
            return self._pages.read(engine_keys(keys), [as_bytes(target) for target in targets])

        targets: list[torch.Tensor] = (
            [torch.empty(self._pages.page_bytes, dtype=torch.uint8).view(self.mem_pool_host.dtype) for _ in keys]
            if target_locations is None
            else target_locations
        )
        came = self._loaded(keys, load)
        return [target if number < came else None for number, target in enumerate(targets)]

    def batch_get_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: Any = None) -> list[bool]:
        came = self._loaded(keys, lambda: self._pages.scatter(engine_keys(keys), self._host.pages(host_indices)))
        return [number < came for number in range(len(keys))]

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        return self.batch_set([key], [value])

    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        return all(self._saved(keys, lambda: pieces(values)))

    def batch_set_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: Any = None) -> list[bool]:
        return self._saved(keys, lambda: self._host.pages(host_indices))

    def clear(self) -> None:
        """Drops everything of this client's namespace in the store, other engines' pages and blocks included."""
        self._asked("clear", lambda: self._store.clear(timeout=self._settings.timeout), 0)

    def get_stats(self) -> StorageMetrics:
        """What SGLang shows in its own metrics, since the last time."""
        with self._lock:
            metrics, self._metrics = self._metrics, StorageMetrics()
        return metrics

    def figures(self) -> list[Figure]:
        """Counters: pages looked up and found, asked for and loaded, offered and saved, and failures by reason; batches
        that were left alone since SGLang has other weights."""
        return list(self._counters.figures())

    def close(self) -> None:
        self._store.close()

    def _loaded(self, keys: Sequence[str], load: Callable[[], int]) -> int:
        begun = time.monotonic()
        came = self._of_these_weights("load", load, 0)
        self._counters.add("load_pages", len(keys))
        self._counters.add("loaded_pages", came)
        if self._config.enable_storage_metrics:
            with self._lock:
                self._metrics.prefetch_pgs.append(len(keys))
                self._metrics.prefetch_bandwidth.append(self._speed(came, begun))
        return came

    def _saved(self, keys: Sequence[str], pages: Callable[[], Sequence[Sequence[Buffer]]]) -> list[bool]:
        begun = time.monotonic()
        kept = self._of_these_weights("save", lambda: self._pages.put(engine_keys(keys), pages()), [False] * len(keys))
        self._counters.add("save_pages", len(keys))
        self._counters.add("saved_pages", sum(kept))
        if self._config.enable_storage_metrics:
            with self._lock:
                self._metrics.backup_pgs.append(len(keys))
                self._metrics.backup_bandwidth.append(self._speed(sum(kept), begun))
        return kept

    def _speed(self, pages: int, begun: float) -> float:
        """GB/s."""
        return pages * self._pages.page_bytes / max(time.monotonic() - begun, 1e-9) / 1e9

    def _of_these_weights(self, operation: str, ask: Callable[[], T], otherwise: T) -> T:
        """Asks, unless SGLang has other weights by now than those that the pages are named after."""
        if replacements() == self._replacements:
            return self._asked(operation, ask, otherwise)
        self._counters.add("other_weights", operation=operation)
        if not self._told:
            self._told = True
            _log.error(
                "SGLang's weights were replaced, so nothing is stored or found: detach this backend, and attach it "
                "again with another `revision`"
            )
        return otherwise

    def _asked(self, operation: str, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except CacheStoreError as error:
            self._counters.add("store_failures", operation=operation, reason=error.reason)
            _log.warning("%s: the store could not go on: %s", operation, error)
            return otherwise
