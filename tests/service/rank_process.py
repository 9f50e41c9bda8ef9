"""A rank of a tensor-parallel model in a process of its own: writes or reads its head groups of one prompt's blocks.

Arguments: `commit`, `leave`, `hold` or `read`, the address, the seed of the prompt, the first of its groups and the one
behind its last. `commit` prints what became of each block; `leave` says `ready` when all is written but not committed,
and waits. The others say `ready` when they are connected, and go on with each line of their input: `hold` reserves and
says `reserved`, then does the same as `commit`; `read` waits for blocks that are being written, and prints whether each
is right.
"""

import json
import sys
import time

from cachestore.block import Part
from cachestore.service.client import RemoteStore
from cachestore.testing import plans_of, random_prompt, same
from cachestore.testing.joint import EIGHT, write_groups

BLOCKS = 4
SECONDS = 60.0

if __name__ == "__main__":
    what, address, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    groups = range(int(sys.argv[4]), int(sys.argv[5]))
    keys, blocks = random_prompt(EIGHT, BLOCKS, seed)
    with RemoteStore(address) as store:
        if what in ("hold", "read"):
            print("ready", flush=True)
            sys.stdin.readline()
        if what == "read":
            part = Part(groups=groups)
            with store.read(keys, part=part, timeout=SECONDS, wait=SECONDS) as reading:
                right = [same(found, wanted, part) for (found, _), wanted in zip(reading, blocks, strict=False)]
            print(json.dumps(right), flush=True)
        else:
            with store.put(keys.fingerprint, plans_of(blocks), groups=groups, timeout=SECONDS) as put:
                if what == "hold":
                    print("reserved", flush=True)
                    sys.stdin.readline()
                write_groups(put, blocks, groups, at_once=True)
                if what == "leave":
                    print("ready", flush=True)
                    time.sleep(SECONDS)
                put.commit()
                print(json.dumps([str(answer.status) for answer in put.answers]), flush=True)
