"""vLLM: loads on their way, from the store into vLLM's pages, which nobody reads yet.

A load is shared out among the threads, each of which reads a stretch of its blocks and copies them piece by piece as
they come. Of one whose blocks are still being written one thread reads all: the others would only wait with it.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Condition

from cachestore.deadline import Deadline
from cachestore.engine.page_memory import PageMemory
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.integrations.page_taking import PageTaker
from cachestore.integrations.pages import EnginePages
from cachestore.integrations.vllm_settings import ConnectorSettings
from cachestore.integrations.vllm_shards import Shard
from cachestore.integrations.vllm_work import Load
from cachestore.metrics import Counters
from cachestore.store.base import Purpose, Store

_log = logging.getLogger(__name__)

SHARE = 8 << 20
"""Bytes for which another thread is worth a read of its own."""

PAUSE = 0.005
"""Seconds before promised blocks are asked for again that the store knows nothing of."""


@dataclass(eq=False)
class Share:
    """Blocks of a load that one thread reads, and how many leading ones of them are in their pages."""

    blocks: range
    came: int = 0


@dataclass(eq=False)
class Loading:
    """One load, in shares of which `left` have not ended."""

    load: Load
    deadline: Deadline
    shares: Sequence[Share]
    left: int
    broken: bool = False

    @property
    def came(self) -> int:
        """How many leading blocks are in their pages."""
        came = 0
        for share in self.shares:
            came += share.came
            if share.came < len(share.blocks):
                break
        return came


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
        threads = self.settings.threads
        self._takers = [PageTaker(self.pages) for _ in range(threads)]
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="cachestore-vllm-load")
        self.staging = sum(taker.nbytes for taker in self._takers)
        """Bytes of staging."""

    def begin(self, loads: Iterable[Load]) -> None:
        """Begins these."""
        for load in loads:
            shares = self._shares(load)
            loading = Loading(load, Deadline.after(self.settings.timeout), shares, len(shares))
            with self._changed:
                self._underway += 1
            for share in shares:
                self._readers.submit(self._load, loading, share)

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
        """vLLM's pages whose blocks did not come, since the last time. Anything may lie in them."""
        with self._changed:
            failed, self._failed = self._failed, set()
            return failed

    def close(self) -> None:
        """Waits for what is on its way."""
        self._readers.shutdown()

    def _shares(self, load: Load) -> list[Share]:
        blocks = len(load.keys)
        worth = blocks * PageMemory.page_bytes(self.shard.spec) // SHARE
        shares = 1 if load.wait else max(1, min(self.settings.threads, worth, blocks))
        return [Share(range(*ends)) for ends in pairwise(blocks * share // shares for share in range(shares + 1))]

    def _load(self, loading: Loading, share: Share) -> None:
        load = loading.load
        # there are as many as threads
        taker = self._takers.pop()
        try:
            self._read(loading, share, taker)
        except CacheStoreError as error:
            self._broke(loading, error.reason)
            _log.warning("request %s: the store could not go on: %s", load.request, error)
        except Exception:
            # the request would wait for ever
            self._broke(loading, "internal")
            _log.exception("request %s: loading failed", load.request)
        finally:
            self._takers.append(taker)
        with self._changed:
            loading.left -= 1
            if not loading.left:
                self._end(loading)

    def _broke(self, loading: Loading, reason: str) -> None:
        """Counts a load once that an error ended."""
        with self._changed:
            counted, loading.broken = loading.broken, True
        if not counted:
            self.counters.add("load_failures", reason=reason)

    def _end(self, loading: Loading) -> None:
        load, came = loading.load, loading.came
        self.counters.add("loaded_blocks", came)
        self.counters.add("lost_blocks", len(load.keys) - came)
        self._underway -= 1
        self._failed.update(load.pages[max(came * self.pages.per_block, load.skip) :])
        self._ended[load.request] = came
        self._changed.notify_all()

    def _read(self, loading: Loading, share: Share, taker: PageTaker) -> None:
        """Reads the blocks of a share, which says how many came, also where this raises."""
        wait = loading.load.wait
        until = time.monotonic() + wait
        loading.deadline.check("waiting for a thread")
        self._read_on(loading, share, wait, taker)
        while share.came < len(share.blocks) and (wait := until - time.monotonic()) > 0:
            # promised, and the engine that saves it may not have told the store yet
            time.sleep(PAUSE)
            self._read_on(loading, share, wait, taker)

    def _read_on(self, loading: Loading, share: Share, wait: float, taker: PageTaker) -> None:
        """The same of those that did not come yet, in one read."""
        load, per_block, blocks = loading.load, self.pages.per_block, share.blocks[share.came :]
        first = blocks.start * per_block
        taker.towards(load.pages[first : blocks.stop * per_block], max(0, load.skip - first))
        chain = Chain(load.fingerprint, load.keys[blocks.start : blocks.stop])
        purpose = Purpose.HANDOFF if load.wait else Purpose.REUSE
        timeout = max(loading.deadline.remaining(), 1e-3)
        with self.store.read(chain, part=self.shard.part, wait=wait, purpose=purpose, timeout=timeout) as reading:
            try:
                reading.fill(taker)
            finally:
                share.came += reading.came
