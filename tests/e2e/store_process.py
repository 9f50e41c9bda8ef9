"""A store in a process of its own: prints its address, serves until its input ends or it is killed."""

import sys
from pathlib import Path

from cachestore.config import build, read
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose

if __name__ == "__main__":
    tables = read(Path(sys.argv[1]))
    settings = build(ServiceSettings, tables.get("service", {}), "service")
    with compose(tables) as store, CacheStoreServer(store, settings) as server:
        print(server.address, flush=True)
        sys.stdin.read()
