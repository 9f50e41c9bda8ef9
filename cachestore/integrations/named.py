"""What a model that an engine has opened is called: the same name and revision for every engine that opens it."""

from pathlib import Path
from typing import Any

from cachestore.engine.revision import directory_revision
from cachestore.errors import ConfigError


def model_name(model: str, config: Any = None) -> str:
    """The hub id; a directory is called by its model type, so that engines which keep it elsewhere share its KV."""
    kind = getattr(config, "model_type", "")
    return str(kind or Path(model).name) if Path(model).is_dir() else model


def revision(model: str, config: Any = None, given: str = "") -> str:
    """`given`, or the hash of a directory's files, or the hub commit of `config`.

    ConfigError if nothing says it: KV of different weights would share its keys. What the hub's cache holds does not
    say it: the model may have been opened by another revision than its newest.
    """
    if given:
        return given
    if model and Path(model).is_dir():
        return directory_revision(Path(model))
    commit = getattr(config, "_commit_hash", None)
    if not commit:
        raise ConfigError(
            f"revision: nothing says which weights {model or 'the model'!r} has; give a name that changes whenever "
            "they do, such as its hub commit"
        )
    return str(commit)
