"""vLLM: saves on their way, out of vLLM's pages into the store.

A save gathers pages into staging before the step ends, after which vLLM may do with them what it likes, and is put by a
thread slot by slot.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock

import torch

from cachestore.block import BlockSpec
from cachestore.errors import CacheStoreError
from cachestore.integrations.complaints import Complaints
from cachestore.integrations.pages import EnginePages
from cachestore.integrations.staging import Staging
from cachestore.integrations.vllm_settings import ConnectorSettings
from cachestore.integrations.vllm_shards import Shard
from cachestore.integrations.vllm_work import Save
from cachestore.metrics import Counters
from cachestore.store.base import BlockPlan, Put, PutStatus, Store

_log = logging.getLogger(__name__)
THERE = frozenset({PutStatus.STORED, PutStatus.ALREADY_EXISTS, PutStatus.KEPT_FIRST})


@dataclass(eq=False)
class Saving:
    """One save: which blocks of it have staging, and the slots gathered so far, None after the last."""

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
class Saves:
    """What one rank saves, through `staging`. `spec` is that of whole blocks, `shard` what the rank has of them."""

    spec: BlockSpec
    shard: Shard
    store: Store
    pages: EnginePages
    settings: ConnectorSettings
    counters: Counters
    staging: Staging
    _saved: list[bytes] = field(default_factory=list)
    _saving: list[Saving] = field(default_factory=list)
    _complaints: Complaints = field(default_factory=lambda: Complaints(_log, "blocks were not saved"))
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._writers = ThreadPoolExecutor(self.settings.threads, thread_name_prefix="cachestore-vllm-save")
        planes, slots = [plane.slot for plane in self.shard.spec.planes()], range(len(self.shard.spec.slots))
        self._planes = list(pairwise([*map(planes.index, slots), len(planes)]))

    def reserve(self, saves: Iterable[Save]) -> None:
        """Begins these, as far as there is staging for them."""
        for save in saves if self.shard.writes else ():
            blocks = self.staging.take(len(save.keys), 0.0)
            self.counters.add("save_dropped_blocks", len(save.keys) - len(blocks))
            if blocks:
                saving = Saving(save, blocks)
                self._saving.append(saving)
                self._writers.submit(self._save, saving)

    def gather(self, slot: int) -> None:
        """What is to be saved of this slot, which the model has computed, is copied out of vLLM's pages."""
        per_block, cache = self.pages.per_block, self.pages.caches[slot]
        for saving in self._saving:
            if slot in saving.gathered:
                continue
            for number, block in enumerate(saving.blocks):
                held = saving.save.pages[number * per_block : (number + 1) * per_block]
                self.pages.take(slot, held, self.staging.memory, block)
            saving.gathered.add(slot)
            if cache.is_cuda:
                # the copies are asynchronous, and a thread would read the staging too soon
                torch.cuda.current_stream(cache.device).synchronize()
            saving.slots.put(slot)

    def gather_rest(self) -> None:
        """The same for all slots that were not named; after this the pages are vLLM's again."""
        for slot in range(len(self.shard.spec.slots)):
            self.gather(slot)
        self._gathered()

    def saved(self) -> list[bytes]:
        """The blocks that the store has since the last time."""
        with self._lock:
            saved, self._saved = self._saved, []
            return saved

    def close(self) -> None:
        """Waits for what is on its way; a save whose step broke off is given up."""
        self._gathered()
        self._writers.shutdown()

    def _gathered(self) -> None:
        for saving in self._saving:
            saving.slots.put(None)
        self._saving = []

    def _save(self, saving: Saving) -> None:
        stored: list[bytes] = []
        try:
            stored = self._put(saving)
            self._complaints.went_well()
        except CacheStoreError as error:
            self.counters.add("save_failures", reason=error.reason)
            self._complaints.failed(error)
        except Exception:
            self.counters.add("save_failures", reason="internal")
            _log.exception("saving failed")
        finally:
            # the engine's thread may still be gathering into this staging
            for _ in saving.each():
                pass
            self.staging.give(saving.blocks)
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
                put.write(number, start, self.staging.memory.planes(block, start, end))
