"""Which arguments of transformers' `generate` leave the KV of tokens what it is without them; others are refused."""

from collections.abc import Mapping
from typing import Any

from cachestore.errors import InvalidArgument

ROWS = "rows of the cache are rows of the batch; repeat the row"
DRAFTS = "it takes KV of drafts back from a cache that it filled itself"
COMPUTED = "there is one only of what is computed; call the model's own generate"
ALLOWED: Mapping[str, tuple[object, str]] = {
    "num_beams": (1, ROWS),
    "num_return_sequences": (1, ROWS),
    "use_cache": (True, "nothing would be saved but what the store had"),
    "prompt_lookup_num_tokens": (None, DRAFTS),
    "assistant_early_exit": (None, DRAFTS),
    "output_hidden_states": (False, COMPUTED),
    "output_attentions": (False, COMPUTED),
}
"""By setting the one value, beside None, that it may have, and why."""

OF_THE_CALL = {
    "generation_config", "logits_processor", "prefix_allowed_tokens_fn", "stopping_criteria", "streamer", "synced_gpus",
    "tokenizer",
}  # fmt: skip
"""Arguments that are no settings, and that decide which tokens come, not what KV they have."""


def check_settings(settings: Mapping[str, Any], own: Any) -> None:
    """InvalidArgument for a setting that is refused, of a call, of its configuration, or of the model's `own`.

    What is no setting at all would go to the model: positions, embeddings or images decide KV, and no key has them.
    """
    given = settings.get("generation_config")
    for name, (value, why) in ALLOWED.items():
        # what the call's configuration leaves open is as in the model's
        said = (settings.get(name), getattr(given, name, None), getattr(own, name, None))
        if next((each for each in said if each is not None), value) != value:
            raise InvalidArgument(f"{name} must be {value}: {why}")
    _check_cache(settings, given, own)
    for name in settings:
        if name not in OF_THE_CALL and not hasattr(own, name):
            raise InvalidArgument(
                f"{name} would go to the model, or is unknown: the keys of blocks are of tokens alone; "
                "call the model's own generate"
            )


def _check_cache(settings: Mapping[str, Any], given: Any, own: Any) -> None:
    """InvalidArgument for a cache of another kind that the call wants, or for a model's own that would hold other KV.

    Any other of the model's own, or of a copy of its settings, gives way to the cache that the store fills.
    """
    name = "cache_implementation"
    published = None if name in settings else getattr(own, name, None)
    asked = settings.get(name) or getattr(given, name, None)
    if asked not in (None, published):
        raise InvalidArgument(f"{name} must be None: the store fills the cache")
    if published == "quantized":
        raise InvalidArgument(
            f"{name}: a quantized cache rounds KV, and what the store keeps is not rounded; set "
            f"model.generation_config.{name} = None"
        )
