"""vLLM: the workers' half of the connector. It moves blocks between vLLM's pages and the store, in threads of its own;
of a tensor-parallel engine each rank its heads.

A load reads blocks into staging and scatters each into pages that nobody reads yet, in several threads. A save gathers
pages into staging before the step ends, after which vLLM may do with them what it likes, and is put by a thread slot by
slot.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock

import torch

from cachestore.block import BlockSpec
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.integrations.pages import EnginePages
from cachestore.integrations.staging import Staging
from cachestore.integrations.vllm_settings import ConnectorSettings
from cachestore.integrations.vllm_shards import Shard
from cachestore.integrations.vllm_underway import Loading, Saving
from cachestore.integrations.vllm_work import Done, Load, Work
from cachestore.metrics import Counters
from cachestore.store.base import BlockPlan, Purpose, Put, PutStatus, Store

_log = logging.getLogger(__name__)
THERE = frozenset({PutStatus.STORED, PutStatus.ALREADY_EXISTS, PutStatus.KEPT_FIRST})


@dataclass(eq=False)
class Transfer:
    """`spec` is that of whole blocks, `shard` what this rank has of them; `names` are vLLM's layers by slot."""

    spec: BlockSpec
    shard: Shard
    store: Store
    pages: EnginePages
    names: Sequence[str]
    settings: ConnectorSettings
    counters: Counters
    _ended: dict[str, int] = field(default_factory=dict)
    _failed: set[int] = field(default_factory=set)
    _saved: list[bytes] = field(default_factory=list)
    _done: Done = field(default_factory=Done)
    _saving: list[Saving] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._slots = {name: slot for slot, name in enumerate(self.names)}
        # apart, so that saves that wait for the store never keep a load from its memory
        self._loads, self._saves = (Staging(self.shard.spec, self.settings.staging // 2) for _ in range(2))
        self._readers = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="cachestore-vllm-load")
        self._writers = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="cachestore-vllm-save")
        planes = [plane.slot for plane in self.shard.spec.planes()]
        self._planes = list(pairwise([*(planes.index(slot) for slot in range(len(self.names))), len(planes)]))

    def begin(self, work: Work) -> None:
        """Begins the loads of a step."""
        for load in work.loads:
            loading = Loading(load, Deadline.after(self.settings.timeout), min(self.settings.threads, len(load.keys)))
            for _ in range(loading.threads):
                self._readers.submit(self._load, loading)

    def reserve(self, work: Work) -> None:
        """Begins the saves of a step, as far as there is staging for them."""
        for save in work.saves if self.shard.writes else ():
            blocks = self._saves.take(len(save.keys), 0.0)
            self.counters.add("save_dropped_blocks", len(save.keys) - len(blocks))
            if blocks:
                saving = Saving(save, blocks)
                self._saving.append(saving)
                self._writers.submit(self._save, saving)

    def gather(self, name: str) -> None:
        """The model has computed this layer: what is to be saved of it is copied out of vLLM's pages."""
        slot = self._slots.get(name)
        if slot is not None:
            self._gather(slot)

    def gather_rest(self) -> None:
        """The same for all layers that were not named; after this the pages are vLLM's again."""
        for slot in range(len(self.names)):
            self._gather(slot)
        for saving in self._saving:
            saving.slots.put(None)
        self._saving = []

    def ended(self) -> set[str]:
        """Requests whose loads have ended, well or not; `failed_pages` tells of the same moment."""
        with self._lock:
            ended, self._ended = self._ended, {}
            self._done = Done(ended, self._saved)
            self._saved = []
            return set(ended)

    def failed_pages(self) -> set[int]:
        """vLLM's pages whose blocks did not come."""
        with self._lock:
            failed, self._failed = self._failed, set()
            return failed

    def done(self) -> Done | None:
        """What `ended` told of, for the scheduler."""
        done, self._done = self._done, Done()
        return done if done.loaded or done.saved else None

    def close(self) -> None:
        """Waits for what is on its way; a save whose step broke off is given up."""
        for saving in self._saving:
            saving.slots.put(None)
        for threads in (self._readers, self._writers):
            threads.shutdown()

    def _gather(self, slot: int) -> None:
        per_block = self.pages.per_block
        for saving in self._saving:
            if slot in saving.gathered:
                continue
            for number, block in enumerate(saving.blocks):
                held = saving.save.pages[number * per_block : (number + 1) * per_block]
                self.pages.take(slot, held, self._saves.memory, block)
            saving.gathered.add(slot)
            if self.pages.caches[slot].is_cuda:
                # the copies are asynchronous, and a thread would read the staging too soon
                torch.cuda.current_stream(self.pages.caches[slot].device).synchronize()
            saving.slots.put(slot)

    def _load(self, loading: Loading) -> None:
        for piece in loading.pieces():
            came = 0
            try:
                came = self._read(loading, piece)
            except CacheStoreError as error:
                self.counters.add("load_failures", reason=error.reason)
                _log.warning("request %s: the store could not go on: %s", loading.load.request, error)
            except Exception:
                # the request would wait for ever
                self.counters.add("load_failures", reason="internal")
                _log.exception("request %s: loading failed", loading.load.request)
            finally:
                loading.came(piece, came)
        if loading.leave():
            self._loaded(loading.load, loading.blocks)

    def _loaded(self, load: Load, came: int) -> None:
        """No thread is at this load any more."""
        self.counters.add("loaded_blocks", came)
        self.counters.add("lost_blocks", len(load.keys) - came)
        first = max(came * self.pages.per_block, load.skip)
        with self._lock:
            self._failed.update(load.pages[first:])
            self._ended[load.request] = came

    def _read(self, loading: Loading, piece: range) -> int:
        """How many blocks of a piece came; as many at a time as there is staging for."""
        load, deadline, came = loading.load, loading.deadline, 0
        chain = Chain(load.fingerprint, load.keys)
        while came < len(piece):
            first = piece.start + came
            blocks = self._loads.take(piece.stop - first, deadline.remaining())
            deadline.check("waiting for staging")
            try:
                read = self._read_blocks(load, chain.behind(first).first(len(blocks)), first, blocks, deadline)
            finally:
                self._loads.give(blocks)
            came += read
            if read < len(blocks):
                break
        return came

    def _read_blocks(self, load: Load, chain: Chain, first: int, blocks: list[int], deadline: Deadline) -> int:
        """How many of the blocks came, which are the load's from number `first` on."""
        memory, per_block, came, wait = self._loads.memory, self.pages.per_block, 0, load.wait
        purpose = Purpose.HANDOFF if wait else Purpose.REUSE
        into, timeout = [memory.buffer(block) for block in blocks], max(deadline.remaining(), 1e-3)
        part = self.shard.part
        with self.store.read(chain, part=part, into=into, wait=wait, purpose=purpose, timeout=timeout) as reading:
            for _ in reading:
                at = (first + came) * per_block
                for slot in range(len(self.names)):
                    held = load.pages[at : at + per_block]
                    self.pages.give(slot, held, memory, blocks[came], max(0, load.skip - at))
                came += 1
            cache = self.pages.caches[0]
            if cache.is_cuda:
                torch.cuda.current_stream(cache.device).synchronize()
        return came

    def _save(self, saving: Saving) -> None:
        stored: list[bytes] = []
        try:
            stored = self._put(saving)
        except CacheStoreError as error:
            self.counters.add("save_failures", reason=error.reason)
            _log.warning("blocks were not saved, the store could not go on: %s", error)
        except Exception:
            self.counters.add("save_failures", reason="internal")
            _log.exception("saving failed")
        finally:
            # the engine's thread may still be gathering into this staging
            for _ in saving.each():
                pass
            self._saves.give(saving.blocks)
            with self._lock:
                self._saved += stored

    def _put(self, saving: Saving) -> list[bytes]:
        save = saving.save
        keys, planes = save.keys[: len(saving.blocks)], self.spec.planes()
        plans = [BlockPlan(key, self.spec.block_tokens, planes) for key in keys]
        groups, timeout = self.shard.groups, self.settings.timeout
        with self.store.put(save.fingerprint, plans, after=save.after, groups=groups, timeout=timeout) as put:
            wanted = [answer.status is PutStatus.WANTED for answer in put.answers]
            for slot in saving.each():
                self._write(put, saving.blocks, slot)
            put.commit(lease=save.lease)
            statuses = [answer.status for answer in put.answers]
        # of a block that ranks write together only the last commit is told that it is there
        written = [own and status is PutStatus.IN_PROGRESS for own, status in zip(wanted, statuses, strict=True)]
        there = [key for key, status in zip(keys, statuses, strict=True) if status in THERE]
        self.counters.add("save_not_kept_blocks", len(keys) - len(there) - sum(written))
        self.counters.add("saved_blocks", len(there) + sum(written))
        return there

    def _write(self, put: Put, blocks: Sequence[int], slot: int) -> None:
        start, end = self._planes[slot]
        for number, block in enumerate(blocks):
            if put.answers[number].status is PutStatus.WANTED:
                put.write(number, start, self._saves.memory.planes(block, start, end))
