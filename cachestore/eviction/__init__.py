"""Which block leaves a full tier?

    lru     the one not read for longest
    slru    the same, but those read since they came are protected
    s3fifo  the first that came and was not read since, mostly from a small queue
    lfu     the one used least often lately, after a small window
    prefix  the one worth least, by what became of blocks like it

To add one: a file with a frozen dataclass of its settings and a `start()` that gives an `base.Order`, a line here, and
a subclass of `cachestore.testing.EvictionTests`.
"""

from cachestore.registry import Catalogue

EVICTIONS = Catalogue(
    "eviction",
    {
        "lru": "cachestore.eviction.lru:Lru",
        "slru": "cachestore.eviction.slru:Slru",
        "s3fifo": "cachestore.eviction.s3fifo:S3Fifo",
        "lfu": "cachestore.eviction.lfu:Lfu",
        "prefix": "cachestore.eviction.prefix:Prefix",
    },
)
