"""The oracle: quantisation in plain torch, on any device."""

import torch

from cachestore_kernels.paged import naive
from cachestore_kernels.paged.pools import Pools
from cachestore_kernels.quant.forms import LARGEST, LIMIT, Form, Quantised

_FLOATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def gather(pools: Pools, out: Quantised, units: torch.Tensor | None) -> None:
    """Fill `out`; `units` `[blocks, slots, 2]` is what one unit is worth, None for 1."""
    blocks = torch.empty(pools.blocks_shape, dtype=pools.dtype, device=pools.device)
    naive.gather(pools, blocks)
    planes = blocks.float() if units is None else blocks.float() / units[..., None, None, None]
    sides = ((out.key_scales, out.key_zeros, 3), (out.value_scales, out.value_zeros, 4))
    for side, (scales, zeros, axis) in enumerate(sides):
        values = planes[:, :, side]  # [blocks, slots, heads, tokens, head_dim]
        codes = torch.empty_like(values, dtype=torch.uint8)
        for index, start in enumerate(range(0, values.shape[axis], out.group)):
            group = values.narrow(axis, start, min(out.group, values.shape[axis] - start))
            quantised, scale, zero = _quantise(group, out.form, axis)
            codes.narrow(axis, start, group.shape[axis]).copy_(quantised)
            scales.narrow(axis, index, 1).copy_(scale)
            if zeros is not None:
                zeros.narrow(axis, index, 1).copy_(zero)
        out.codes[:, :, side] = codes[..., ::2] | codes[..., 1::2] << 4 if out.form == "int4" else codes


def peaks(pools: Pools, out: torch.Tensor) -> None:
    """Fill `out` `[blocks, slots, 2]`."""
    blocks = torch.empty(pools.blocks_shape, dtype=pools.dtype, device=pools.device)
    naive.gather(pools, blocks)
    out.copy_(blocks.abs().flatten(3).amax(3))


def scatter(quantised: Quantised, pools: Pools, units: torch.Tensor | None) -> None:
    """Write what `quantised` stands for into its pages."""
    blocks = torch.empty(pools.blocks_shape, dtype=pools.dtype, device=pools.device)
    sides = ((quantised.key_scales, quantised.key_zeros, 3), (quantised.value_scales, quantised.value_zeros, 4))
    for side, (scales, zeros, axis) in enumerate(sides):
        values = restore(quantised.codes[:, :, side], scales, zeros, quantised.form, quantised.group, axis)
        blocks[:, :, side] = values if units is None else values * units[:, :, side, None, None, None]
    naive.scatter(blocks, pools)


def restore(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, form: Form, group: int, axis: int
) -> torch.Tensor:
    """What codes stand for, in float32; groups lie along `axis`."""
    if form == "int4":
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)
    values = codes.view(_FLOATS[form]).float() if form in _FLOATS else codes.float()

    def spread(groups: torch.Tensor) -> torch.Tensor:
        return groups.float().repeat_interleave(group, axis).narrow(axis, 0, values.shape[axis])

    values = values * spread(scales)
    return values if zeros is None else values + spread(zeros)


def _quantise(group: torch.Tensor, form: Form, axis: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scale and zero of a group."""
    whole = (group.abs() <= LIMIT).all(axis, keepdim=True)
    if form in _FLOATS:
        zero = torch.zeros_like(group.narrow(axis, 0, 1)).half()
        span = group.abs().amax(axis, keepdim=True)
    else:
        least = group.amin(axis, keepdim=True) + 0.0
        zero = _stored(least, up=False)
        span = group.amax(axis, keepdim=True) - zero.float()
    # by a tensor: on CUDA, torch multiplies by the reciprocal of a number, which may be off by one
    scale = _stored(span / torch.full_like(span, LARGEST[form]), up=True)
    steps = (group - zero.float()) / scale.float().masked_fill(scale == 0, 1)
    steps = steps.where(whole, 0)
    codes = steps.to(_FLOATS[form]).view(torch.uint8) if form in _FLOATS else steps.round().to(torch.uint8)
    return codes, scale.where(whole, torch.nan), zero.where(whole, 0)


def _stored(values: torch.Tensor, *, up: bool) -> torch.Tensor:
    """`values` as float16, rounded `up` or down."""
    half = values.half()
    beyond = torch.nextafter(half, torch.full_like(half, torch.inf if up else -torch.inf))
    return torch.where(half.float() < values if up else half.float() > values, beyond, half)
