"""What quantised KV looks like, and the checks of its arguments."""

from typing import Literal, NamedTuple, get_args

import torch

from cachestore_kernels.paged.pools import Pools

Form = Literal["int8", "int4", "e4m3", "e5m2"]
FORMS: tuple[Form, ...] = get_args(Form)
GROUPS = (32, 64, 128)

LARGEST = {"int8": 255.0, "int4": 15.0, "e4m3": 448.0, "e5m2": 57344.0}
"""What the largest of a group becomes: of integers the last code, of floats the largest that is finite."""

LIMIT = 65504.0
"""The largest float16: a group holding more, in its units, or an infinity or NaN, comes back as NaN."""


class Quantised(NamedTuple):
    """Blocks in groups of `group` elements that share a scale: along tokens in keys, along channels in values.

    value = code · scale + zero for integers, value = code · scale for floats of one byte, in units of two to the
    exponent that was given. The last group of a row is shorter where the row does not divide. `codes[:, slot, 0]`,
    `key_scales[:, slot]` and so on are pools of quantised pages, a page being a block, as attention reads them.
    """

    form: Form
    group: int
    codes: torch.Tensor
    """uint8 `[blocks, slots, 2, heads, tokens, head_dim]`; of int4 `head_dim / 2`, the first of two in the low half."""
    key_scales: torch.Tensor
    """float16 `[blocks, slots, heads, groups, head_dim]`."""
    value_scales: torch.Tensor
    """float16 `[blocks, slots, heads, tokens, groups]`."""
    key_zeros: torch.Tensor | None
    """As `key_scales`; None for floats."""
    value_zeros: torch.Tensor | None
    """As `value_scales`; None for floats."""


def check_form(form: str, group: int, head_dim: int) -> None:
    """ValueError unless such rows can be quantised so."""
    if form not in FORMS:
        raise ValueError(f"form: one of {', '.join(FORMS)}, not {form!r}")
    if group not in GROUPS:
        raise ValueError(f"group: one of {', '.join(map(str, GROUPS))}, not {group}")
    if form == "int4" and head_dim % 2:
        raise ValueError(f"form: int4 packs pairs of channels, and head_dim {head_dim} is odd; take int8")


def check_pools_float(pools: Pools) -> None:
    """TypeError unless the pools hold floats of two or four bytes."""
    if pools.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(f"keys[0]: float16, bfloat16 or float32 is needed to quantise, not {pools.dtype}")


def shapes(pools: Pools, form: Form, group: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes of codes, key_scales and value_scales for what `pools` names."""
    blocks, slots, _, heads, tokens, head_dim = pools.blocks_shape
    codes = (blocks, slots, 2, heads, tokens, head_dim // 2 if form == "int4" else head_dim)
    key_scales = (blocks, slots, heads, -(-tokens // group), head_dim)
    return codes, key_scales, (blocks, slots, heads, tokens, -(-head_dim // group))


def new(pools: Pools, form: Form, group: int) -> Quantised:
    """Memory for the quantised form of what `pools` names."""
    check_pools_float(pools)
    check_form(form, group, pools.blocks_shape[-1])
    codes, *scales = shapes(pools, form, group)
    halves = [torch.empty(shape, dtype=torch.float16, device=pools.device) for shape in scales * 2]
    zeros = halves[2:] if form.startswith("int") else [None, None]
    stored = torch.empty(codes, dtype=torch.uint8, device=pools.device)
    return Quantised(form, group, stored, halves[0], halves[1], zeros[0], zeros[1])


def check_quantised(quantised: Quantised, pools: Pools) -> None:
    """Refuse what is not the quantised form of what `pools` names, whole and contiguous."""
    check_pools_float(pools)
    check_form(quantised.form, quantised.group, pools.blocks_shape[-1])
    codes, keys, values = shapes(pools, quantised.form, quantised.group)
    integers = quantised.form.startswith("int")
    for name, shape, dtype in (
        ("codes", codes, torch.uint8),
        ("key_scales", keys, torch.float16),
        ("value_scales", values, torch.float16),
        ("key_zeros", keys, torch.float16),
        ("value_zeros", values, torch.float16),
    ):
        tensor = getattr(quantised, name)
        if name.endswith("zeros") and not integers:
            if tensor is not None:
                raise ValueError(f"{name}: {quantised.form} has none; pass None")
            continue
        if tensor is None or tensor.dtype != dtype:
            raise TypeError(f"{name}: {dtype} is needed, not {None if tensor is None else tensor.dtype}")
        if tuple(tensor.shape) != shape or not tensor.is_contiguous():
            raise ValueError(f"{name}: contiguous {list(shape)} is needed here, not {list(tensor.shape)}")
        if tensor.device != pools.device:
            raise ValueError(f"{name}: on {tensor.device}, the pools on {pools.device}; move one of them")


def check_exponents(exponents: torch.Tensor | None, pools: Pools) -> torch.Tensor | None:
    """The factors `[blocks, slots, 2]` in float32 that units are worth; None for None, which is 1."""
    shape = pools.blocks_shape[:3]
    if exponents is None:
        return None
    if exponents.dtype != torch.int32:
        raise TypeError(f"exponents: int32 is needed, not {exponents.dtype}")
    if tuple(exponents.shape) != shape or exponents.device != pools.device:
        raise ValueError(f"exponents: {list(shape)} on {pools.device} is needed, not {list(exponents.shape)}")
    # made of bits: a power that a device computes may be off by one
    return (exponents.clamp(-126, 127) + 127 << 23).view(torch.float32)
