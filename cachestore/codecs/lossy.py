"""The lossy codecs, which only a spec's recipe chooses.

A value that was rounded may live only under a spec that says so, and so may all that is computed on top of it. So its
writer goes on from what readers will get: it takes every completed plane back as `settled` gives it.
"""

import numpy as np

from cachestore.block import BlockSpec, Buffer, PlaneId
from cachestore.codecs.affine import Int4, Int8
from cachestore.codecs.base import Codec
from cachestore.codecs.fp8 import Fp8
from cachestore.codecs.geometry import DTYPES
from cachestore.errors import InvalidArgument
from cachestore.recipe import parse


def codec_for(spec: BlockSpec) -> Codec | None:
    """The codec that the spec's recipe names, or None where values stay exact and any lossless one will do.

    InvalidArgument if the recipe is not canonical, or the spec's KV cannot be quantised.
    """
    chosen = parse(spec.recipe).quantisation
    if chosen is None:
        return None
    if spec.dtype not in DTYPES:
        raise InvalidArgument(
            f"spec.recipe asks for {chosen.name}, but spec.dtype is {spec.dtype}; it must be one of {', '.join(DTYPES)}"
        )
    match chosen.name:
        case "fp8":
            return Fp8(spec, chosen.group, chosen.format)
        case "int8":
            return Int8(spec, chosen.group)
        case _:
            return Int4(spec, chosen.group)


def settled(codec: Codec, raw: Buffer, plane: PlaneId) -> Buffer:
    """The bytes that a reader of this plane will get: `raw` itself unless the codec is lossy.

    What is put is `raw` all the same, not what this gives: coding that again may round it again.
    """
    stored = codec.encode(raw, plane) if codec.lossy else None
    if stored is None:
        return raw
    out = np.empty_like(raw)
    codec.decode(stored, out, plane.item_bytes)
    return out
