"""A worker in a process of its own that owns pages. Arguments: the store's address, the device, the tier's capacity.

Its namespace's id is its first line; then it answers each line of JSON by one.

    {"put": [seed, count]}   puts a random prompt of so many blocks into its tier: how many are there
    {"drop": 0}              empties its tier
    {"sync": 0}              how many pages are registered now
    {"held": 0}              how many blocks its tier holds
"""

import json
import sys
from typing import Any

import numpy as np
import torch

from cachestore.deadline import Deadline
from cachestore.eviction.lru import Lru
from cachestore.service.client import RemoteStore
from cachestore.service.pages.node_pages import NodePages
from cachestore.testing import random_prompt, small_spec
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_memory import GRANULE
from cachestore.tiers.gpu_tier import GpuTier


def main(address: str, device: str, capacity: int) -> None:
    tier = Gpu(capacity=capacity, device=device, slab=GRANULE).start(Lru())
    tier.open(lambda departures: None)
    with RemoteStore(address) as store, NodePages(store, device, tier) as pages:
        print(json.dumps(pages.namespace().hex()), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(tier, pages, device, json.loads(line))), flush=True)
    tier.close()


def answer(tier: GpuTier, pages: NodePages, device: str, asked: dict[str, Any]) -> int:
    namespace = pages.namespace()
    if "put" in asked:
        seed, count = asked["put"]
        keys, blocks = random_prompt(small_spec(), count, seed)
        on_device = [
            DeviceBlock(
                block.key, block.token_count, block.planes, torch.from_numpy(np.concatenate(block.data)).to(device)
            )
            for block in blocks
        ]
        return sum(tier.put_pages(namespace, keys.fingerprint, on_device, Deadline.after(60.0)))
    if "drop" in asked:
        tier.clear(namespace, Deadline.after(60.0))
    return pages.sync() if "sync" in asked else len(tier.keys(namespace))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
