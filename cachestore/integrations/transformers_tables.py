"""transformers: whether a loaded model turns by the rotary tables that its configuration makes.

No file holds them. `half()` and `to(dtype)` round them with the weights, loading in that type does not: at token 1000
an angle is then off by a quarter of a radian in float16, by more than one in bfloat16, of a model that looks the same.
"""

import torch
from torch import nn

from cachestore.engine.layers import text_config
from cachestore.engine.rotary import longrope_switch

ROUNDING = 1e-5
"""How far, relatively, one table made on two devices may be from itself; float16 is 50 times coarser."""


def other_tables(model: nn.Module) -> str:
    """The first of transformers' modules whose tables are others; empty if none is."""
    ignored = longrope_switch(text_config(model.config))
    for name, module in model.named_modules():
        held = {own: table for own, table in module._buffers.items() if own.endswith("inv_freq") and table is not None}
        if not held or not hasattr(module, "config") or not type(module).__module__.startswith("transformers."):
            continue
        made = type(module)(module.config)._buffers
        for own, table in held.items():
            # of longrope's the one in use is that of the call before
            if ignored and not own.endswith("original_inv_freq"):
                continue
            fresh = made[own]
            if fresh is None or fresh.dtype != table.dtype or not torch.allclose(table.cpu(), fresh.cpu(), ROUNDING, 0):
                return str(name)
    return ""
