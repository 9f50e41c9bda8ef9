"""Where in the cluster is a block?

    memory  in this process: for one node, for tests and for simulations
    redis   in Redis, for many nodes

A directory is soft state. It says which nodes hold a block in memory, and whether the Redis tier has it, for a whole
prompt in one round trip. What it says may be out of date: a reader that misses says so, and the entry is gone.

To add one: a file with a frozen dataclass of its settings whose `start(tier)` gives a `base.Directory`, a line here,
and a subclass of `cachestore.testing.directories.DirectoryTests`.
"""

from cachestore.registry import Catalogue

DIRECTORIES = Catalogue(
    "directory",
    {
        "memory": "cachestore.directory.memory:Memory",
        "redis": "cachestore.directory.redis:Redis",
    },
)
