"""A store in a process of its own: prints its address, serves until its input ends."""

import json
import sys

from cachestore.codecs import create
from cachestore.config import build
from cachestore.eviction.lru import Lru
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu

if __name__ == "__main__":
    memory = Cpu(64 << 20).start()
    settings = build(ServiceSettings, json.loads(sys.argv[1]), "service")
    with TieredStore(memory, (), create("raw"), Lru()) as store, CacheStoreServer(store, settings, "test") as server:
        print(server.address, flush=True)
        sys.stdin.read()
