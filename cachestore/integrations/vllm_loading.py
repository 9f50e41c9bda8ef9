"""vLLM: loads on their way, from the store into vLLM's pages.

Of each load one thread reads block after block into staging and another copies them into pages, which nobody reads yet.
Two of a kind would wait for each other: checksums give the interpreter lock up at every plane, copies of whole blocks
hardly ever. The staging of a load is a few blocks, used again while the processor's caches have it.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from itertools import cycle, islice, takewhile
from threading import Condition

import torch

from cachestore.deadline import Deadline
from cachestore.engine.page_memory import PageMemory
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.integrations.pages import EnginePages
from cachestore.integrations.staging import Staging
from cachestore.integrations.vllm_settings import ConnectorSettings
from cachestore.integrations.vllm_shards import Shard
from cachestore.integrations.vllm_work import Load
from cachestore.metrics import Counters
from cachestore.store.base import Purpose, Store

_log = logging.getLogger(__name__)

RING = 3
"""Blocks of staging of one load: one that is read, one that is copied, and one between them."""

PAUSE = 0.005
"""Seconds before promised blocks are asked for again that the store knows nothing of."""


@dataclass(eq=False)
class Loading:
    """One load, and how many leading blocks of it are in their pages."""

    load: Load
    deadline: Deadline
    came: int = 0
    copies: "deque[Future[None]]" = field(default_factory=deque)

    def copied(self) -> None:
        """Waits for the next copy, and raises what it raised."""
        self.copies[0].result()
        self.copies.popleft()
        self.came += 1


@dataclass(eq=False)
class Loads:
    """What one rank loads. Threads call nothing of it but what is private."""

    shard: Shard
    store: Store
    pages: EnginePages
    settings: ConnectorSettings
    counters: Counters
    _underway: int = 0
    _ended: dict[str, int] = field(default_factory=dict)
    _failed: set[int] = field(default_factory=set)
    _changed: Condition = field(default_factory=Condition)

    def __post_init__(self) -> None:
        threads, spec = self.settings.threads, self.shard.spec
        most = threads * RING * PageMemory.page_bytes(spec)
        self._staging = Staging(spec, min(self.settings.staging // 2, most))
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="cachestore-vllm-load")
        self._copiers = ThreadPoolExecutor(threads, thread_name_prefix="cachestore-vllm-copy")

    @property
    def staging(self) -> int:
        """Bytes of staging."""
        return self._staging.memory.pages * PageMemory.page_bytes(self.shard.spec)

    def begin(self, loads: Iterable[Load]) -> None:
        """Begins these."""
        for load in loads:
            with self._changed:
                self._underway += 1
            self._readers.submit(self._load, Loading(load, Deadline.after(self.settings.timeout)))

    def wait(self, seconds: float) -> None:
        """Until one has ended that `ended` did not tell of, if any is on its way."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._underway, seconds)

    def ended(self) -> dict[str, int]:
        """By request, how many blocks came of each load that has ended, well or not, since the last time."""
        with self._changed:
            ended, self._ended = self._ended, {}
            return ended

    def failed(self) -> set[int]:
        """vLLM's pages whose blocks did not come, since the last time."""
        with self._changed:
            failed, self._failed = self._failed, set()
            return failed

    def close(self) -> None:
        """Waits for what is on its way."""
        self._readers.shutdown()
        self._copiers.shutdown()

    def _load(self, loading: Loading) -> None:
        load = loading.load
        try:
            self._read(loading)
        except CacheStoreError as error:
            self.counters.add("load_failures", reason=error.reason)
            _log.warning("request %s: the store could not go on: %s", load.request, error)
        except Exception:
            # the request would wait for ever
            self.counters.add("load_failures", reason="internal")
            _log.exception("request %s: loading failed", load.request)
        self.counters.add("loaded_blocks", loading.came)
        self.counters.add("lost_blocks", len(load.keys) - loading.came)
        first = max(loading.came * self.pages.per_block, load.skip)
        with self._changed:
            self._underway -= 1
            self._failed.update(load.pages[first:])
            self._ended[load.request] = loading.came
            self._changed.notify_all()

    def _read(self, loading: Loading) -> None:
        """Reads the blocks; `loading` says how many came, also where this raises."""
        load, deadline = loading.load, loading.deadline
        blocks = self._staging.take(min(RING, len(load.keys)), deadline.remaining())
        until = time.monotonic() + load.wait
        try:
            deadline.check("waiting for staging")
            self._read_on(loading, blocks, load.wait)
            while loading.came < len(load.keys) and (wait := until - time.monotonic()) > 0:
                # promised, and the engine that saves it may not have told the store yet
                time.sleep(PAUSE)
                self._read_on(loading, blocks, wait)
        finally:
            self._staging.give(blocks)

    def _read_on(self, loading: Loading, blocks: Sequence[int], wait: float) -> None:
        """The same with those that did not come yet, in one read, through these blocks of staging."""
        load, first, copies = loading.load, loading.came, loading.copies
        chain = Chain(load.fingerprint, load.keys[first:])
        purpose = Purpose.HANDOFF if load.wait else Purpose.REUSE
        buffers = [self._staging.memory.buffer(block) for block in blocks]
        into, part = list(islice(cycle(buffers), len(chain))), self.shard.part
        timeout = max(loading.deadline.remaining(), 1e-3)
        try:
            with self.store.read(chain, part=part, into=into, wait=wait, purpose=purpose, timeout=timeout) as reading:
                # block after block: buffers are filled in their turn
                for number, _ in enumerate(reading):
                    block = blocks[number % len(blocks)]
                    copies.append(self._copiers.submit(self._copy, load, first + number, block))
                    if len(copies) == len(blocks):
                        # the next block comes to where this one lies
                        loading.copied()
        finally:
            # whatever broke: they are at the staging
            wait_for(copies)
            for _ in takewhile(lambda copy: copy.exception() is None, list(copies)):
                loading.copied()
        for copy in copies:
            copy.result()

    def _copy(self, load: Load, number: int, block: int) -> None:
        """Block `number` of the load, from staging into its pages; what vLLM has of it already is not written over."""
        first = number * self.pages.per_block
        held = load.pages[first : first + self.pages.per_block]
        self.pages.give_all(held, self._staging.memory, block, max(0, load.skip - first))
        cache = self.pages.caches[0]
        if cache.is_cuda:
            # the staging is used again
            torch.cuda.current_stream(cache.device).synchronize()
