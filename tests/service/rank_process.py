"""A rank of a tensor-parallel model in a process of its own: writes its head groups of one prompt's blocks.

Arguments: `commit` or `leave`, the address, the seed of the prompt, the first of its groups and the one behind its
last. `commit` prints what became of each block; `leave` says `ready` when all is written but not committed, and waits.
"""

import json
import sys
import time

from cachestore.service.client import RemoteStore
from cachestore.testing import plans_of, random_prompt
from cachestore.testing.joint import EIGHT, write_groups

if __name__ == "__main__":
    what, address, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    groups = range(int(sys.argv[4]), int(sys.argv[5]))
    keys, blocks = random_prompt(EIGHT, 4, seed)
    with RemoteStore(address) as store, store.put(keys.fingerprint, plans_of(blocks), groups=groups, timeout=60) as put:
        write_groups(put, blocks, groups, at_once=True)
        if what == "leave":
            print("ready", flush=True)
            time.sleep(60)
        put.commit()
        print(json.dumps([str(answer.status) for answer in put.answers]), flush=True)
