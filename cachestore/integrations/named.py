"""What a model that an engine has opened is called: the same name and revision for every engine that opens it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cachestore.engine.revision import directory_revision
from cachestore.errors import ConfigError

COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
"""What the hub names a state of a model by; branches and tags move."""


def model_name(model: str, config: Any = None) -> str:
    """The hub id; a directory is called by its model type, so that engines which keep it elsewhere share its KV."""
    kind = getattr(config, "model_type", "")
    return str(kind or Path(model).name) if Path(model).is_dir() else model


def revision(model: str, given: str = "", opened: str | None = None, changed: Mapping[str, Any] | None = None) -> str:
    """What says which KV `model` computes: `given`, or the hash of a directory's files, or the commit it was opened by.

    `opened` is the revision of a hub model as the engine knows it, which counts if it is a commit: what the hub's cache
    holds says nothing, since the model may have been opened by another revision than its newest. `changed` are
    settings that the engine computes by, and that are not as the model's configuration says; they are added.

    ConfigError if nothing says it: KV of different weights would share its keys.
    """
    if given:
        found = given
    elif model and Path(model).is_dir():
        found = directory_revision(Path(model))
    elif opened and COMMIT.fullmatch(opened):
        found = opened
    else:
        raise ConfigError(
            f"revision: nothing says which weights {model or 'the model'!r} has; give a name that changes whenever "
            "they do, such as its hub commit"
        )
    return f"{found} {json.dumps(changed, sort_keys=True, default=str)}" if changed else found
