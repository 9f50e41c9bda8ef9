"""Whether planes that are about to arrive can be what their sender says of them."""

import numpy as np
from numpy.typing import NDArray

from cachestore.codecs import by_id
from cachestore.codecs.base import RAW
from cachestore.store.laying import Layout


def unsound(layout: Layout, planes: range, stored: NDArray[np.void]) -> str:
    """What is wrong with these rows, one for each plane; empty if nothing is."""
    if not 0 <= planes.start < planes.stop <= len(layout.planes) or len(planes) != len(stored):
        return f"the block has {len(layout.planes)} planes"
    raw_bytes = layout.table["raw_bytes"][planes.start : planes.stop]
    sizes, codecs = stored["stored_bytes"], stored["codec"]
    if (sizes < 1).any() or (sizes > raw_bytes).any():
        return "stored_bytes must lie in 1 .. the plane's raw bytes"
    for codec in set(codecs.tolist()):
        # only what fits into the plane table is looked up: answers are kept
        if codec > 255 or by_id(codec) is None:
            return f"codec {codec} is none that this store knows"
    as_it_is = codecs == RAW
    if (sizes[as_it_is] != raw_bytes[as_it_is]).any():
        return "a plane as it is has its raw bytes"
    if (stored["stored_checksum"][as_it_is] != stored["raw_checksum"][as_it_is]).any():
        return "a plane as it is has one checksum"
    return ""
