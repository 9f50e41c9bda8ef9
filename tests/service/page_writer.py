"""A worker in a process of its own whose puts fill pages. Arguments: the store's address, and the device.

It answers each line of JSON, [seed, count], by how many blocks of such a random prompt the store has taken.
"""

import json
import sys

from cachestore.eviction.lru import Lru
from cachestore.service.pages.owner_store import OwnerStore
from cachestore.store.base import PutStatus, put_blocks
from cachestore.testing import random_prompt, small_spec
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_memory import GRANULE


def main(address: str, device: str) -> None:
    tier = Gpu(capacity=4 * GRANULE, device=device, slab=GRANULE).start(Lru())
    tier.open(lambda departures: None)
    with OwnerStore(address, tier, device) as store:
        for line in sys.stdin:
            seed, count = json.loads(line)
            keys, blocks = random_prompt(small_spec(), count, seed)
            answers = put_blocks(store, keys.fingerprint, blocks)
            print(sum(answer.status is PutStatus.STORED for answer in answers), flush=True)
    tier.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
