"""LMCache: our store behind its multi-process server, as an L2 adapter. Tested with LMCache 0.5.6.

    lmcache server --l2-adapter '{"type": "plugin", "module_path": "cachestore.integrations.lmcache_l2",
        "class_name": "CacheStoreL2Adapter", "adapter_params": {"address": "127.0.0.1:7420", "revision": "..."}}'

`revision` names the weights and all that the engine is told to compute KV by, of which LMCache tells nothing.

Every call returns at once; the work is done in threads of ours, between LMCache's L1 memory and the store's. A lookup
locks nothing: what the store evicts before it is loaded is a miss. The store bounds and evicts what it holds by
itself, so LMCache is told of no usage.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Generic, TypeVar

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.platform import create_event_notifier

from cachestore.integrations.client import remote_store
from cachestore.integrations.lmcache_chunks import Chunks, answers, chunk_bytes, chunk_spec, counted, flat
from cachestore.integrations.lmcache_settings import named_settings
from cachestore.metrics import Counters

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

HASH_BYTES = 32
"""A hash of blake3 or SHA-256; those of Python's builtin and of xxHash are shorter, and may collide between prompts."""


@dataclass(eq=False)
class Tasks(Generic[_T]):
    """Jobs of one kind, their answers, each taken once, and a descriptor that is readable when some are done."""

    threads: ThreadPoolExecutor
    notifier: Any = field(default_factory=create_event_notifier)

    def __post_init__(self) -> None:
        self._done: dict[int, _T] = {}
        self._begun = 0
        self._lock = Lock()

    def submit(self, work: Callable[[], _T], otherwise: _T) -> int:
        """Begins a job; its number. It answers `otherwise` if it cannot be done."""
        with self._lock:
            self._begun += 1
            number = self._begun

        def run() -> None:
            answer = otherwise
            try:
                answer = work()
            except Exception:
                # LMCache waits for every job, without end
                _log.exception("a job of LMCache's could not be done")
            with self._lock:
                self._done[number] = answer
            self.notifier.notify()

        self.threads.submit(run)
        return number

    def pop(self, number: int) -> _T | None:
        """The answer of a job that is done, once."""
        with self._lock:
            return self._done.pop(number, None)

    def pop_all(self) -> dict[int, _T]:
        """The answers of all jobs that are done, once."""
        with self._lock:
            done, self._done = self._done, {}
        return done

    def close(self) -> None:
        """Waits for what is begun."""
        self.threads.shutdown()
        self.notifier.close()


class CacheStoreL2Adapter(L2AdapterInterface):
    """Objects of LMCache's server, in our store. A store that fails is a miss, counted in `report_status`."""

    def __init__(self, adapter_params: dict[str, Any], l1_memory_desc: Any = None) -> None:
        super().__init__()
        self._settings = named_settings(adapter_params, "adapter_params")
        self._store = remote_store(self._settings.address)
        self._store.open()
        self._counters = Counters()
        self._said = set[str]()
        self._known: dict[tuple[object, ...], Chunks] = {}
        self._lookups: Tasks[Bitmap] = Tasks(_threads("lookup", 1))
        self._loads: Tasks[Bitmap] = Tasks(_threads("load", self._settings.threads))
        self._stores: Tasks[L2StoreResult] = Tasks(_threads("store", self._settings.threads))

    @property
    def figures(self) -> dict[str, int]:
        """What was counted."""
        return counted(self._counters)

    def get_store_event_fd(self) -> int:
        return int(self._stores.notifier.fileno())

    def get_lookup_and_lock_event_fd(self) -> int:
        return int(self._lookups.notifier.fileno())

    def get_load_event_fd(self) -> int:
        return int(self._loads.notifier.fileno())

    def submit_store_task(self, keys: list[ObjectKey], objects: list[Any]) -> int:
        return self._stores.submit(lambda: self._save(keys, objects), L2StoreResult(False, 0))

    def pop_completed_store_tasks(self) -> dict[int, L2StoreResult]:
        return self._stores.pop_all()

    def submit_lookup_and_lock_task(self, keys: list[ObjectKey], group_layout_descs: dict[int, Any]) -> int:
        return self._lookups.submit(lambda: self._look(keys, group_layout_descs), Bitmap(len(keys)))

    def query_lookup_and_lock_result(self, task_id: int) -> Bitmap | None:
        return self._lookups.pop(task_id)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Nothing: nothing was locked."""

    def submit_load_task(self, keys: list[ObjectKey], objects: list[Any]) -> int:
        return self._loads.submit(lambda: self._load(keys, objects), Bitmap(len(keys)))

    def query_load_result(self, task_id: int) -> Bitmap | None:
        return self._loads.pop(task_id)

    def delete(self, keys: list[ObjectKey]) -> None:
        """Removes objects of every layout that was seen here."""
        for identity, chunks in list(self._known.items()):
            named = [_named(key) for key in keys if identity[:3] == _identity(key)]
            if named:
                chunks.delete(named)

    def report_status(self) -> dict[str, Any]:
        healthy = answers(self._store, self._settings.lookup_timeout)
        return {"is_healthy": healthy, "type": type(self).__name__, **self.figures}

    def close(self) -> None:
        for tasks in (self._lookups, self._loads, self._stores):
            tasks.close()
        self._store.close()

    def _look(self, keys: Sequence[ObjectKey], layouts: dict[int, Any]) -> Bitmap:
        """Of each row of chunks those up to its first gap."""
        described = [layouts.get(key.object_group_id) for key in keys]
        found = Bitmap(len(keys))
        for chunks, places in self._rows(keys, [each and (each.shapes, each.dtypes) for each in described]):
            for place in places[: chunks.leading([_named(keys[place]) for place in places])]:
                found.set(place)
        return found

    def _load(self, keys: Sequence[ObjectKey], objects: Sequence[Any]) -> Bitmap:
        loaded = Bitmap(len(keys))
        for chunks, places in self._rows(keys, [_layout(each) for each in objects]):
            came = chunks.load([_named(keys[place]) for place in places], [flat(objects[place]) for place in places])
            for place in places[:came]:
                loaded.set(place)
        return loaded

    def _save(self, keys: Sequence[ObjectKey], objects: Sequence[Any]) -> L2StoreResult:
        saved = nbytes = 0
        for chunks, places in self._rows(keys, [_layout(each) for each in objects]):
            kept = chunks.save([_named(keys[place]) for place in places], [flat(objects[place]) for place in places])
            saved, nbytes = saved + sum(kept), nbytes + sum(kept) * chunks.nbytes
        return L2StoreResult(saved == len(keys), nbytes)

    def _rows(self, keys: Sequence[ObjectKey], layouts: Sequence[Any]) -> Iterator[tuple[Chunks, list[int]]]:
        """The places of a batch by what decides their bytes, for the keys that can be served."""
        rows: dict[tuple[object, ...], list[int]] = {}
        for place, (key, layout) in enumerate(zip(keys, layouts, strict=True)):
            if len(key.chunk_hash) != HASH_BYTES:
                self._refuse(
                    1, "hashes of this length can collide between prompts; start LMCache with --hash-algorithm blake3"
                )
            elif layout is not None:
                shapes, dtypes = layout
                identity = (*_identity(key), tuple(map(tuple, shapes)), tuple(dtypes), key.cache_salt)
                rows.setdefault(identity, []).append(place)
        for identity, places in rows.items():
            yield self._chunks(identity[:-1]), places

    def _chunks(self, identity: tuple[Any, ...]) -> Chunks:
        known = self._known.get(identity)
        if known is None:
            model, rank, group, shapes, dtypes = identity
            # or SHA-256; the server does not say which
            spec = chunk_spec(self._settings, model, shapes, dtypes, "blake3", kv_rank=rank, object_group=group)
            known = Chunks(self._store, spec, chunk_bytes(shapes, dtypes), self._settings, self._counters)
            self._known[identity] = known
        return known

    def _refuse(self, objects: int, why: str) -> None:
        self._counters.add("refused", objects)
        if why not in self._said:
            self._said.add(why)
            _log.error("nothing is stored or found: %s", why)


def _threads(name: str, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=f"cachestore-lmcache-{name}")


def _identity(key: ObjectKey) -> tuple[object, ...]:
    return key.model_name, key.kv_rank, key.object_group_id


def _layout(memory: Any) -> tuple[Any, Any]:
    return memory.get_shapes(), memory.get_dtypes()


def _named(key: ObjectKey) -> bytes:
    """Hashes are of one length, so this says both."""
    named: bytes = key.chunk_hash + key.cache_salt.encode()
    return named
