"""The oracle: XXH3-64 of many planes at once on the host, as the specification has it, in numpy."""

import numpy as np
import torch
from numpy.typing import NDArray

from cachestore_kernels.checksum.sides import Sides
from cachestore_kernels.checksum.xxh3 import AVALANCHE, P32, P64, START, words

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def checksum(sides: Sides, out: torch.Tensor) -> None:
    """Fill `out`, int64, one element a plane; ValueError for a page outside the pools."""
    count = len(sides.pools[0])
    pages = torch.arange(count, device=out.device)[:, None] if sides.pages is None else sides.pages
    if ((pages < 0) | (pages >= count)).any():
        raise ValueError(f"pages: an id lies outside [0, {count}); pass ids of existing pages")
    planes = torch.stack([pool[pages].transpose(1, 2).flatten(2, 3) for pool in sides.pools], dim=1)
    data = planes.view(torch.uint8).reshape(out.numel(), -1).cpu().numpy().view("<u8")
    out.copy_(torch.from_numpy(_long(data).view("<i8")).view(out.shape))


def _long(data: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The checksum of each row of `[planes, words]`."""
    size = data.shape[1] * 8
    lanes = np.tile(np.array(START, dtype=np.uint64), (len(data), 1))
    keys = [np.array(words(8 * stripe, 8), dtype=np.uint64) for stripe in range(16)]
    for stripe in range((size - 1) // 64):
        _accumulate(lanes, data[:, 8 * stripe : 8 * stripe + 8], keys[stripe % 16])
        if stripe % 16 == 15:
            lanes ^= lanes >> np.uint64(47)
            lanes ^= np.array(words(128, 8), dtype=np.uint64)
            lanes *= np.uint64(P32[0])
    _accumulate(lanes, data[:, -8:], np.array(words(121, 8), dtype=np.uint64))
    result = np.full(len(data), size * P64[0] % 2**64, dtype=np.uint64)
    mixed = lanes ^ np.array(words(11, 8), dtype=np.uint64)
    for lane in range(0, 8, 2):
        result += _folded(mixed[:, lane], mixed[:, lane + 1])
    result ^= result >> np.uint64(37)
    result *= np.uint64(AVALANCHE)
    return result ^ result >> _HALF


def _accumulate(lanes: NDArray[np.uint64], stripe: NDArray[np.uint64], key: NDArray[np.uint64]) -> None:
    mixed = stripe ^ key
    lanes += stripe.reshape(-1, 4, 2)[:, :, ::-1].reshape(-1, 8)
    lanes += (mixed & _LOW) * (mixed >> _HALF)


def _folded(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The halves of the product in 128 bits, one exclusive-or the other."""
    low = (a & _LOW) * (b & _LOW)
    cross = (a >> _HALF) * (b & _LOW) + (low >> _HALF)
    other = (a & _LOW) * (b >> _HALF) + (cross & _LOW)
    high = (a >> _HALF) * (b >> _HALF) + (cross >> _HALF) + (other >> _HALF)
    folded: NDArray[np.uint64] = high ^ (a * b)
    return folded
