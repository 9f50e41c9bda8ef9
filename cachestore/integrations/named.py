"""What a model that an engine has opened is called: the same name and revision for every engine that opens it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cachestore.engine.revision import directory_revision
from cachestore.errors import ConfigError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def model_name(model: str, config: Any = None) -> str:
    """The hub id; a directory is called by its model type, so that engines which keep it elsewhere share its KV."""
    kind = getattr(config, "model_type", "")
    return str(kind or Path(model).name) if Path(model).is_dir() else model


def revision(model: str, config: Any = None, given: str = "") -> str:
    """`given`, or the hash of a directory's files, or the hub commit of `config` or of what the hub's cache holds.

    ConfigError if nothing says it: KV of different weights would share its keys.
    """
    if given:
        return given
    if model and Path(model).is_dir():
        return directory_revision(Path(model))
    commit = getattr(config, "_commit_hash", None) or _cached_commit(model)
    if not commit:
        raise ConfigError(
            f"revision: nothing says which weights {model or 'the model'!r} has; give a name that changes whenever "
            "they do, such as its hub commit"
        )
    return str(commit)


def _cached_commit(model: str) -> str:
    """The commit in the hub's local cache, empty if there is none."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return ""
    look: Callable[..., Any] = try_to_load_from_cache
    try:
        found = look(model, "config.json")
    except HFValidationError:
        return ""
    # .../snapshots/<commit>/config.json
    commit = Path(found).parent.name if isinstance(found, str) else ""
    return commit if _COMMIT.fullmatch(commit) else ""
