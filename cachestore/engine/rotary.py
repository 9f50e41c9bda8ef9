"""What of a model's configuration determines its rotary tables, as canonical JSON.

Tables that depend on the position alone are named by their settings. Tables that also depend on the length of the
request are a regime, chosen per request and part of the spec (longrope's short and long factors), or cannot be named
at all (dynamic NTK recomputes its base as the sequence grows), and then the model is refused.
"""

import json
from typing import Any

from cachestore.errors import InvalidArgument, UnsupportedModel

SHORT, LONG = "short", "long"
_SETTINGS = (
    "no_rope_layers",
    "partial_rotary_factor",
    "rope_interleave",
    "rope_parameters",
    "rope_theta",
    "rotary_dim",
    "rotary_emb_base",
    "rotary_pct",
)


def tables(text: Any) -> list[dict[str, Any]]:
    """The rotary settings of a text configuration: one for all layers, or one a layer type; none without rotary."""
    parameters = getattr(text, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or ([parameters] if parameters else [])


def rope_type(table: dict[str, Any]) -> str:
    """The kind of one table, by its current or its older name."""
    return str(table.get("rope_type") or table.get("type") or "default")


def _canonical(value: Any) -> Any:
    """Without unset entries, and with one spelling for a number: 10000 and 10000.0 make the same table."""
    if isinstance(value, dict):
        return {str(key): _canonical(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def canonical(text: Any) -> str:
    """Every setting that affects the rotary tables: JSON with sorted keys and no spaces, empty without rotary.

    Head dims affect them too, and stand in the spec's slots.

    UnsupportedModel for tables that depend on how long the sequence is at the moment.
    """
    found = tables(text)
    if not found:
        return ""
    kinds = {rope_type(table) for table in found}
    if any("dynamic" in kind for kind in kinds):
        raise UnsupportedModel(
            "dynamic NTK rotary scaling recomputes its tables as the sequence grows, so the KV of a prefix has no "
            "name; use a fixed scaling such as yarn or linear"
        )
    names = _SETTINGS if kinds == {"default"} else (*_SETTINGS, "max_position_embeddings")
    settings = {name: getattr(text, name, None) for name in names}
    return json.dumps(_canonical(settings), sort_keys=True, separators=(",", ":"))


def longrope_switch(text: Any) -> int:
    """The longest sequence, in tokens, whose tables are longrope's short ones; 0 if the model has no longrope."""
    lengths: list[int] = [
        int(table.get("original_max_position_embeddings") or text.original_max_position_embeddings)
        for table in tables(text)
        if rope_type(table) == "longrope"
    ]
    return min(lengths, default=0)


def regime(text: Any, chosen: str) -> str:
    """The table used for a request: `chosen`, or what the model leaves no choice about.

    UnsupportedModel if the model has two and none is chosen.
    """
    switch = longrope_switch(text)
    if chosen and (not switch or chosen not in (SHORT, LONG)):
        raise InvalidArgument(f"rotary_regime {chosen!r} does not fit: longrope models have 'short' and 'long'")
    if not switch or chosen:
        return chosen
    if int(text.max_position_embeddings) <= switch:
        return SHORT
    raise UnsupportedModel(
        f"longrope changes its rotary tables beyond {switch} tokens, so the spec must say which a request uses; "
        "choose rotary_regime 'short' or 'long'"
    )
