"""The spec of a model: from its configuration to the words that name its KV."""

from math import gcd
from typing import Any

from cachestore.block import BlockSpec
from cachestore.engine.layers import stored, text_config
from cachestore.engine.rotary import canonical, regime

MOST_GROUPS = 8


def default_groups(heads: list[int]) -> int:
    """The largest number of head groups up to 8 that divides the KV heads of every slot."""
    common = gcd(*heads)
    return max(groups for groups in range(1, MOST_GROUPS + 1) if common % groups == 0)


def spec_of(
    config: Any,
    *,
    model: str,
    revision: str,
    dtype: str,
    block_tokens: int = 64,
    head_groups: int = 0,
    adapter: str = "",
    adapter_revision: str = "",
    weights: str = "",
    rotary_regime: str = "",
    recipe: str = "",
) -> BlockSpec:
    """The spec of the model that `config`, any transformers configuration, describes.

    `head_groups = 0` chooses a number. `rotary_regime` is needed for longrope models only. UnsupportedModel names
    what of the model has no name as KV in blocks; InvalidArgument what does not fit it.
    """
    text = text_config(config)
    slots = tuple(slot for slot in stored(config) if slot is not None)
    return BlockSpec(
        model=model,
        revision=revision,
        dtype=dtype,
        slots=slots,
        head_groups=head_groups or default_groups([slot.kv_heads for slot in slots]),
        block_tokens=block_tokens,
        weights=weights,
        rotary=canonical(text),
        rotary_regime=regime(text, rotary_regime),
        adapter=adapter,
        adapter_revision=adapter_revision,
        recipe=recipe,
    )
