"""How are a block's bytes written?

Each plane is coded by itself, so that a part decodes alone; the codec's id stands in the plane table, so that what was
written under one configuration is read under any other.

    raw     as they are
    lz4     bytes of equal significance side by side, then LZ4

To add one: a file with a frozen dataclass that follows `base.Codec`, a line here and one in `_IDS`, and a subclass of
`cachestore.testing.CodecTests`. An id, once given, keeps its meaning for ever.
"""

from functools import cache
from typing import cast

from cachestore.codecs.base import Codec
from cachestore.registry import Catalogue

CODECS = Catalogue("codecs", {"raw": "cachestore.codecs.raw:Raw", "lz4": "cachestore.codecs.lz4:Lz4"})
_IDS = {0: "raw", 1: "lz4"}


def create(name: str) -> Codec:
    """The codec called `name` with its default settings."""
    return cast(Codec, CODECS.load(name)())


@cache
def by_id(number: int) -> Codec | None:
    """The codec that a plane table names, or None if this release does not know it."""
    name = _IDS.get(number)
    return create(name) if name else None
