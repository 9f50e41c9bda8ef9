"""vLLM: the workers' half of the connector. It moves blocks between vLLM's pages and the store, in threads of its own.

A load reads blocks into staging and scatters each into pages that nobody reads yet. A save gathers pages into staging
before the step ends, after which vLLM may do with them what it likes, and is put by a thread slot by slot.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock

import torch

from cachestore.block import BlockSpec
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.integrations.pages import EnginePages
from cachestore.integrations.staging import Staging
from cachestore.integrations.vllm_settings import ConnectorSettings
from cachestore.integrations.vllm_work import Done, Load, Save, Work
from cachestore.metrics import Counters
from cachestore.store.base import BlockPlan, Purpose, Put, PutStatus, Store

_log = logging.getLogger(__name__)
LOAD_BLOCKS = 8
"""Blocks of one read: so much staging a load takes at a time."""


@dataclass(eq=False)
class Saving:
    """One save on its way: which blocks of it have staging, and the slots gathered so far, None after the last."""

    save: Save
    blocks: list[int]
    slots: "SimpleQueue[int | None]" = field(default_factory=SimpleQueue)
    gathered: set[int] = field(default_factory=set)
    over: bool = False

    def each(self) -> Iterator[int]:
        """The slots, as they are gathered; goes on where it was left."""
        while not self.over:
            slot = self.slots.get()
            if slot is None:
                self.over = True
            else:
                yield slot


@dataclass(eq=False)
class Transfer:
    """`names` are vLLM's layers by slot."""

    spec: BlockSpec
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
        self._loads, self._saves = (Staging(self.spec, self.settings.staging // 2) for _ in range(2))
        self._readers = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="cachestore-vllm-load")
        self._writers = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="cachestore-vllm-save")
        planes = [plane.slot for plane in self.spec.planes()]
        self._planes = list(pairwise([*(planes.index(slot) for slot in range(len(self.names))), len(planes)]))

    def begin(self, work: Work) -> None:
        """Begins the loads of a step."""
        for load in work.loads:
            self._readers.submit(self._load, load)

    def reserve(self, work: Work) -> None:
        """Begins the saves of a step, as far as there is staging for them."""
        for save in work.saves:
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

    def _load(self, load: Load) -> None:
        came = 0
        try:
            came = self._read(load)
        except CacheStoreError as error:
            self.counters.add("load_failures", reason=error.reason)
            _log.warning("request %s: the store could not go on: %s", load.request, error)
        except Exception:
            # the request would wait for ever
            self.counters.add("load_failures", reason="internal")
            _log.exception("request %s: loading failed", load.request)
        finally:
            self.counters.add("loaded_blocks", came)
            self.counters.add("lost_blocks", len(load.keys) - came)
            first = max(came * self.pages.per_block, load.skip)
            with self._lock:
                self._failed.update(load.pages[first:])
                self._ended[load.request] = came

    def _read(self, load: Load) -> int:
        """How many blocks came; a piece at a time, so that staging stays small and warm."""
        deadline, came = Deadline.after(self.settings.timeout), 0
        chain, wait = Chain(load.fingerprint, load.keys), load.wait
        while came < len(chain):
            blocks = self._loads.take(min(LOAD_BLOCKS, len(chain) - came), deadline.remaining())
            deadline.check("waiting for staging")
            try:
                piece = self._read_piece(load, chain.behind(came).first(len(blocks)), came, blocks, wait, deadline)
            finally:
                self._loads.give(blocks)
            came += piece
            if piece < len(blocks):
                break
        return came

    def _read_piece(
        self, load: Load, chain: Chain, first: int, blocks: list[int], wait: float, deadline: Deadline
    ) -> int:
        memory, per_block, came = self._loads.memory, self.pages.per_block, 0
        purpose = Purpose.HANDOFF if wait else Purpose.REUSE
        into, timeout = [memory.buffer(block) for block in blocks], max(deadline.remaining(), 1e-3)
        with self.store.read(chain, into=into, wait=wait, purpose=purpose, timeout=timeout) as reading:
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
            self.counters.add("saved_blocks", len(stored))
            with self._lock:
                self._saved += stored

    def _put(self, saving: Saving) -> list[bytes]:
        save = saving.save
        keys, planes = save.keys[: len(saving.blocks)], self.spec.planes()
        plans = [BlockPlan(key, self.spec.block_tokens, planes) for key in keys]
        with self.store.put(save.fingerprint, plans, after=save.after, timeout=self.settings.timeout) as put:
            for slot in saving.each():
                self._write(put, saving.blocks, slot)
            put.commit()
            statuses = [answer.status for answer in put.answers]
        held = PutStatus.STORED, PutStatus.ALREADY_EXISTS, PutStatus.KEPT_FIRST
        self.counters.add("save_not_kept_blocks", sum(status not in held for status in statuses))
        return [key for key, status in zip(keys, statuses, strict=True) if status in held]

    def _write(self, put: Put, blocks: Sequence[int], slot: int) -> None:
        start, end = self._planes[slot]
        for number, block in enumerate(blocks):
            if put.answers[number].status is PutStatus.WANTED:
                put.write(number, start, self._saves.memory.planes(block, start, end))
