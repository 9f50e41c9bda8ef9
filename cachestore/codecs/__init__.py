"""How are a block's bytes written?

Each plane is coded by itself, so that a part decodes alone; the codec's id stands in the plane table, so that what was
written under one configuration is read under any other.

    raw      as they are
    lz4      bytes of equal significance side by side, then LZ4
    entropy  exponents entropy-coded, the rest as it is

These lose nothing, and the configuration chooses between them. What follows changes values, so only the recipe of a
spec can name it, and `lossy.codec_for` makes it:

    fp8      floats of one byte, scaled by groups
    int8     256 steps between the least and the largest of a group
    int4     16 steps

To add one: a file with a frozen dataclass that follows `base.Codec`, a line here and one in `_IDS`, and a subclass of
`cachestore.testing.CodecTests` (`LossyCodecTests`). An id, once given, keeps its meaning for ever.
"""

from functools import cache
from typing import Any, cast

from cachestore.codecs.base import Codec
from cachestore.errors import ConfigError
from cachestore.registry import Catalogue


class _Lossless(Catalogue):
    """What the configuration may name."""

    def load(self, name: str, field: str = "") -> type[Any]:
        """As any catalogue does; ConfigError, with the way out, for a lossy codec."""
        if name in LOSSY.places:
            raise ConfigError(
                f"{field or f'{self.folder}.name'} = {name!r} changes values, so it cannot be chosen here: put "
                f"'quantisation={name}' into the spec's recipe ([engine] recipe), one of {', '.join(self.names())} here"
            )
        return super().load(name, field)


CODECS = _Lossless(
    "codecs",
    {
        "raw": "cachestore.codecs.raw:Raw",
        "lz4": "cachestore.codecs.lz4:Lz4",
        "entropy": "cachestore.codecs.entropy:Entropy",
    },
)
LOSSY = Catalogue(
    "codecs",
    {
        "fp8": "cachestore.codecs.fp8:Fp8",
        "int8": "cachestore.codecs.affine:Int8",
        "int4": "cachestore.codecs.affine:Int4",
    },
)
_IDS = {0: "raw", 1: "lz4", 2: "entropy", 3: "fp8", 4: "int8", 5: "int4"}


def create(name: str, field: str = "") -> Codec:
    """The codec called `name` with its default settings; ConfigError, about `field`, if it is unknown or lossy."""
    return cast(Codec, CODECS.load(name, field)())


@cache
def by_id(number: int) -> Codec | None:
    """The codec that a plane table names, or None if this release does not know it. A lossy one only decodes."""
    name = _IDS.get(number)
    if name is None:
        return None
    return cast(Codec, (LOSSY if name in LOSSY.places else CODECS).load(name)())
