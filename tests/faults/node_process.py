"""A node of a cluster in a process of its own: prints its address, serves until SIGTERM or until its parent is gone."""

import json
import signal
import sys
from threading import Event, Thread

from cachestore.cluster.host import StoreHost

if __name__ == "__main__":
    tables = json.loads(sys.argv[1])
    stop = Event()

    def parent_is_gone() -> None:
        sys.stdin.read()
        stop.set()

    Thread(target=parent_is_gone, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    host = StoreHost(tables, tables["store"]["node"])
    try:
        print(host.address(), flush=True)
        stop.wait()
    finally:
        host.close()
