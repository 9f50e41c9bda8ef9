"""Workers that own pages, here or in a process of their own, and what a test asks of pages."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cachestore.deadline import Deadline
from cachestore.eviction.lru import Lru
from cachestore.service.client import RemoteStore
from cachestore.service.pages.node_pages import NodePages
from cachestore.testing import random_prompt, small_spec
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_memory import GRANULE, HostMemory
from cachestore.tiers.gpu_tier import GpuTier
from tests.service.page_owner import answer
from tests.service.sessions import SOON

OWNER = Path(__file__).with_name("page_owner.py")
KEYS, BLOCKS = random_prompt(small_spec(), 8)


class Owner:
    """A worker that owns pages."""

    namespace: bytes

    def ask(self, **what: Any) -> int:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def registers(self, seed: int = 1, count: int = 8) -> None:
        assert self.ask(put=[seed, count]) == count
        assert self.ask(sync=0) >= count


class Apart(Owner):
    """One in a process of its own."""

    def __init__(self, address: str, device: str = "cpu", capacity: int = 4 * GRANULE, **environment: str) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.popen = subprocess.Popen(
            [sys.executable, str(OWNER), address, device, str(capacity)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )  # fmt: skip
        self.namespace = bytes.fromhex(self.line())

    def line(self) -> Any:
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line, "the owner is gone"
        return json.loads(line)

    def ask(self, **what: Any) -> int:
        assert self.popen.stdin is not None
        print(json.dumps(what), file=self.popen.stdin, flush=True)
        return int(self.line())

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()


class Here(Owner):
    """One in this process, whose end is that of its session: its memory stays, as that of a killed one may."""

    def __init__(self, address: str, device: str = "cpu", capacity: int = 4 * GRANULE) -> None:
        self.tier = Gpu(capacity=capacity, device=device, slab=GRANULE).start(Lru())
        self.tier.open(lambda departures: None)
        self.store = RemoteStore(address)
        self.store.open()
        self.pages = NodePages(self.store, device, self.tier)
        self.pages.open()
        self.namespace = self.pages.namespace()

    def ask(self, **what: Any) -> int:
        return answer(self.tier, self.pages, "cpu", what)

    def kill(self) -> None:
        self.pages.close()
        self.store.close()


def tiers(pages: NodePages | RemoteStore, keys: Any = KEYS) -> list[tuple[str, int]]:
    return [(run.tier, run.blocks) for run in pages.lookup(keys).runs]


def within(seconds: float, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def opened_tier(capacity: int = 4 * GRANULE) -> Iterator[GpuTier]:
    tier = Gpu(capacity=capacity, device="cpu", slab=GRANULE).start(Lru())
    tier.open(lambda departures: None)
    try:
        yield tier
    finally:
        tier.close()


def filled(tier: GpuTier, pages: NodePages, seed: int = 1, count: int = 8) -> None:
    keys, blocks = random_prompt(small_spec(), count, seed)
    on = [
        DeviceBlock(one.key, one.token_count, one.planes, torch.from_numpy(np.concatenate(one.data))) for one in blocks
    ]
    assert all(tier.put_pages(pages.namespace(), keys.fingerprint, on, Deadline.after(SOON)))


def taking_back(owner: Owner) -> Callable[[HostMemory, Tensor, Tensor], None]:
    """A copy within which the owner takes its pages back, the first time."""
    copy, copied = HostMemory.copy, list[Tensor]()

    def copying(self: HostMemory, source: Tensor, target: Tensor) -> None:
        copy(self, source, target)
        if not copied:
            copied.append(source)
            owner.ask(drop=0)

    return copying
