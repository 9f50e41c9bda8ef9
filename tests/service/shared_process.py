"""A client in a process of its own, which is killed: says `ready` when it has done what its first argument says.

Arguments: `write`, `read` or `wait` (said before it does), the address, and how many of eight blocks it commits first.
"""

import sys
import time

from cachestore.service.client import RemoteStore
from cachestore.testing import plans_of, random_prompt, small_spec

if __name__ == "__main__":
    what, address, committed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    keys, blocks = random_prompt(small_spec(), 8)
    with RemoteStore(address, transports=("shared",)) as store:
        if what == "write":
            put = store.put(keys.fingerprint, plans_of(blocks), timeout=60.0)
            for number, block in enumerate(blocks):
                for plane, data in enumerate(block.data):
                    put.write(number, plane, data)
            put.commit(range(committed))
        elif what == "wait":
            # the session that this begins is the one that waits
            store.lookup(keys)
            print("ready", flush=True)
            store.read(keys, wait=60.0, timeout=60.0)
        else:
            reading = iter(store.read(keys, timeout=60.0))
            next(reading)
        print("ready", flush=True)
        time.sleep(60)
