"""How is KV used again at another place? Its keys are turned by how far each token moved; its values stay as they are.

Rotary embedding (RoFormer, arXiv 2104.09864) turns pairs of channels of a key by position times frequency, so keys that
lie in a block turn from one position to another by their difference alone, whatever scaled the frequencies.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from cachestore_kernels.method import Method, choose
from cachestore_kernels.paged.pools import check_blocks, check_pools
from cachestore_kernels.rope.turns import Turns

__all__ = ["Style", "scatter_shifted"]

Style = Literal["half", "interleaved"]


def scatter_shifted(
    blocks: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    shifts: torch.Tensor,
    frequencies: torch.Tensor,
    style: Style = "half",
    method: Method | None = None,
) -> None:
    """Copy blocks into pages as `cachestore_kernels.paged.scatter` does, their keys turned on the way.

    blocks, keys, values, pages, heads, method: as for `scatter`; float16, bfloat16 or float32.
    shifts: int64 `[blocks, tokens]`, how many positions each token moves, forwards or, if negative, back.
    frequencies: float `[pairs]`, the angle of each pair of channels a position, as the model scales them (linear,
        Llama 3, YaRN: anything by which the angle is position times frequency). Twice as many channels turn, the first
        of each head; the others stay (partial rotary).
    style: half pairs channel i with i + pairs; interleaved pairs 2i with 2i + 1.

    Angles are float64, the turn is float32, the result is rounded once. A token that does not move, and every value,
    arrives bit for bit.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for any other wrong argument.
    """
    pools = check_pools(keys, values, pages, heads)
    check_blocks("blocks", blocks, pools)
    if pools.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(f"keys[0]: float16, bfloat16 or float32 is needed to turn keys, not {pools.dtype}")
    if style not in ("half", "interleaved"):
        raise ValueError(f"style: 'half' or 'interleaved', not {style!r}")
    count, *_, tokens, head_dim = pools.blocks_shape
    if shifts.dtype != torch.int64:
        raise TypeError(f"shifts: int64 is needed, not {shifts.dtype}; pass shifts.long()")
    if tuple(shifts.shape) != (count, tokens):
        raise ValueError(f"shifts: [blocks, tokens] is {[count, tokens]} here, not {list(shifts.shape)}")
    if not frequencies.is_floating_point():
        raise TypeError(f"frequencies: floats are needed, not {frequencies.dtype}")
    if frequencies.ndim != 1 or not 1 <= len(frequencies) <= head_dim // 2:
        raise ValueError(f"frequencies: 1 to {head_dim // 2} of them, one a pair, not {list(frequencies.shape)}")
    for name, tensor in (("shifts", shifts), ("frequencies", frequencies)):
        if tensor.device != pools.device:
            raise ValueError(f"{name}: on {tensor.device}, the pools on {pools.device}; move one of them")
    turns = Turns.of(shifts, frequencies, style == "interleaved")
    choose(__name__, pools.device, method).scatter(blocks, pools, turns)
