"""Are these planes what their header says? XXH3-64 of raw planes where they lie, so that nothing is copied to find out.

The result is `xxhash.xxh3_64_intdigest` of a plane's bytes in canonical order `[heads of a group, token, head_dim]`.
"""

from collections.abc import Sequence

import torch

from cachestore_kernels.checksum.sides import Sides
from cachestore_kernels.checksum.xxh3 import SHORTEST
from cachestore_kernels.method import Method, choose
from cachestore_kernels.paged.pools import check_pools

__all__ = ["checksum_pages", "checksum_planes", "takes"]


def checksum_pages(
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    head_groups: int = 1,
    method: Method | None = None,
) -> torch.Tensor:
    """Checksums of blocks in an engine's pages: uint64 `[blocks, slots, 2, head_groups]`.

    keys, values, pages, heads: as for `cachestore_kernels.paged.gather`.
    head_groups: how many planes the heads make; divides them.
    method: fused for CUDA tensors where Triton is installed, else naive. Asking for fused on CPU needs
        `TRITON_INTERPRET=1` in the environment before this function first runs fused.

    Rows must be whole words of 8 bytes, at multiples of 8, and planes longer than 240 bytes. Pages outside the pool
    raise ValueError in naive; in fused they are not read and count as zeros.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for any other wrong argument.
    """
    pools = check_pools(keys, values, pages, heads)
    if head_groups < 1 or len(pools.heads) % head_groups:
        raise ValueError(f"head_groups: a divisor of {len(pools.heads)} heads is needed, not {head_groups}")
    blocks, slots = pools.blocks_shape[:2]
    pairs = zip(pools.keys, pools.values, strict=True)
    views = [pool[:, pools.heads.start : pools.heads.stop] for pair in pairs for pool in pair]
    sides = Sides(tuple(views), pools.pages, head_groups)
    out = torch.empty(blocks, slots, 2, head_groups, dtype=torch.int64, device=pools.device)
    _check(sides)
    choose(__name__, pools.device, method).checksum(sides, out)
    return out.view(torch.uint64)


def takes(planes: torch.Tensor) -> bool:
    """Whether `checksum_planes` takes `[planes, ...]` of these lengths at this address."""
    if planes.ndim < 2 or not planes.is_contiguous() or not len(planes):
        return False
    nbytes = planes.nbytes // len(planes)
    return nbytes >= SHORTEST and nbytes % 8 == 0 and planes.data_ptr() % 8 == 0


def checksum_planes(planes: torch.Tensor, *, method: Method | None = None) -> torch.Tensor:
    """Checksums of planes that lie one behind the other: uint64 `[planes]`.

    planes: `[planes, ...]`, contiguous, of any real dtype; each a multiple of 8 bytes and longer than 240, at an
        address that is a multiple of 8.
    method: as for `checksum_pages`.

    Raises ValueError for a wrong argument.
    """
    if planes.ndim < 2 or not planes.is_contiguous():
        raise ValueError(f"planes: contiguous [planes, ...] is needed, not {list(planes.shape)}")
    out = torch.empty(len(planes), dtype=torch.int64, device=planes.device)
    if len(planes):
        sides = Sides((planes.view(len(planes), 1, 1, -1),), None, 1)
        _check(sides)
        choose(__name__, planes.device, method).checksum(sides, out)
    return out.view(torch.uint64)


def _check(sides: Sides) -> None:
    if sides.plane_bytes < SHORTEST:
        raise ValueError(f"planes: more than 240 bytes are needed, not {sides.plane_bytes}; check them on the host")
    if any(place % 8 for place in (sides.row_bytes, *sides.strides, *(pool.data_ptr() for pool in sides.pools))):
        raise ValueError("planes: rows, strides and addresses must be multiples of 8 bytes; check a copy on the host")
