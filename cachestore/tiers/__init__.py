"""Where can bytes live on this node?

    cpu     shared memory, in slabs that belong to one namespace each
    disk    files in a folder of a local disk, one for each block
    gpu     raw pages on a torch device, for whoever computes there
    redis   a Redis server, yours by URL or an embedded one

A tier moves sealed blocks verbatim and never looks inside; gpu alone decodes them, into raw pages. The cpu tier is the
gateway: every block is written to it and served from it. gpu is hot: it gets copies of what is read often. The others
are cold: they get copies of what was put, or of what must leave. All but cpu speak in batches of keys.

To add one: a file with a frozen dataclass of its settings whose `start(eviction)` gives a `base.ColdTier`, a line here,
and a subclass of `cachestore.testing.TierTests`, for one that keeps blocks for good of `DurableTierTests`, too.
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
