"""Pages that hold codes instead of floats."""

from typing import NamedTuple

import torch

from cachestore_kernels.attention.paging import Paged
from cachestore_kernels.quant import Form, Quantised
from cachestore_kernels.quant.forms import check_form


class Scales(NamedTuple):
    """What the codes of one slot's pages are worth: `cachestore_kernels.quant.Quantised` of that slot, in units of 1.

    Views with any strides as long as the last is 1; zeros, where the form has them, with the strides of their scales.
    """

    form: Form
    group: int
    keys: torch.Tensor
    """float16 `[pages, kv_heads, groups of a page's tokens, head_dim]`."""
    values: torch.Tensor
    """float16 `[pages, kv_heads, page_tokens, groups of head_dim]`."""
    key_zeros: torch.Tensor | None = None
    value_zeros: torch.Tensor | None = None

    @classmethod
    def of_slot(cls, quantised: Quantised, slot: int) -> "Scales":
        """Those of one slot, its blocks being pages; `quantised.codes[:, slot, 0]` and `[:, slot, 1]` are the pools."""
        zeros = (zero if zero is None else zero[:, slot] for zero in (quantised.key_zeros, quantised.value_zeros))
        scales = quantised.key_scales[:, slot], quantised.value_scales[:, slot]
        return cls(quantised.form, quantised.group, *scales, *zeros)


def check_scales(scales: Scales, query: torch.Tensor, paged: Paged) -> None:
    """TypeError or ValueError unless `scales` fit the pools, and these the query."""
    form, group = scales.form, scales.group
    packed = 2 if form == "int4" else 1
    key_dim, value_dim = (pool.shape[3] * packed for pool in (paged.keys, paged.values))
    check_form(form, group, key_dim)
    if paged.keys.dtype != torch.uint8 or paged.values.dtype != torch.uint8:
        raise TypeError(f"keys, values: uint8 codes are needed, not {paged.keys.dtype}, {paged.values.dtype}")
    if key_dim != query.shape[2]:
        raise ValueError(f"keys: head_dim {key_dim} of {form} codes differs from the query's {query.shape[2]}")
    tokens = paged.tokens
    if tokens < 16 or tokens & (tokens - 1):
        raise ValueError(f"keys: pages of codes hold a power of two of tokens, at least 16, not {tokens}")
    pages, heads = paged.keys.shape[:2]
    shapes = {
        "keys": (pages, heads, -(-tokens // group), key_dim),
        "values": (pages, heads, tokens, -(-value_dim // group)),
    }
    integers = form.startswith("int")
    for name, zero in (("keys", scales.key_zeros), ("values", scales.value_zeros)):
        scale: torch.Tensor = getattr(scales, name)
        if scale.dtype != torch.float16 or tuple(scale.shape) != shapes[name] or scale.stride(3) != 1:
            raise ValueError(
                f"scales.{name}: float16 {list(shapes[name])} is needed, not {scale.dtype} {list(scale.shape)}"
            )
        if (zero is not None) != integers:
            raise ValueError(f"scales: {form} has {'zeros; pass them' if integers else 'no zeros; pass None'}")
        if zero is not None and (zero.dtype, zero.shape, zero.stride()) != (scale.dtype, scale.shape, scale.stride()):
            raise ValueError(f"scales: zeros of {name} need dtype, shape and strides of their scales")
        if any(tensor is not None and tensor.device != query.device for tensor in (scale, zero)):
            raise ValueError(f"scales.{name}: not on {query.device}, where query is; move one of them")
