"""Which block leaves a full tier?

    lru     the one not read for longest

To add one: a file with a frozen dataclass of its settings and a `start()` that gives an `base.Order`, a line here, and
a subclass of `cachestore.testing.EvictionTests`.
"""

from cachestore.registry import Catalogue

EVICTIONS = Catalogue("eviction", {"lru": "cachestore.eviction.lru:Lru"})
