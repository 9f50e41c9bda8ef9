"""A store in a process of its own: prints its address, serves until SIGTERM, or until who started it is gone."""

import json
import signal
import sys
from threading import Event, Thread

from cachestore.config import build
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose

if __name__ == "__main__":
    tables = json.loads(sys.argv[1])
    settings = build(ServiceSettings, tables.get("service", {}), "service")
    stop = Event()

    def parent_is_gone() -> None:
        sys.stdin.read()
        stop.set()

    Thread(target=parent_is_gone, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with compose(tables) as store, CacheStoreServer(store, settings) as server:
        print(server.address, flush=True)
        stop.wait()
