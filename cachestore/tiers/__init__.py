"""Where can bytes live on this node?

    cpu     shared memory, in slabs that belong to one namespace each
    disk    files in a folder of a local disk, one for each block
    gpu     raw pages on a torch device, for whoever computes there
    redis   a Redis server, yours by URL or an embedded one

A tier moves sealed blocks verbatim and never looks inside. The cpu tier is the gateway: every block is written to it
and served from it; the others are cold and speak in batches of keys.

To add a cold one: a file with a frozen dataclass of its settings whose `start()` gives a `base.ColdTier`, a line here,
and a subclass of `cachestore.testing.TierTests`.
"""

from cachestore.registry import Catalogue

TIERS = Catalogue(
    "tiers",
    {
        "cpu": "cachestore.tiers.cpu:Cpu",
        "disk": "cachestore.tiers.disk:Disk",
        "gpu": "cachestore.tiers.gpu:Gpu",
        "redis": "cachestore.tiers.redis:Redis",
    },
)
