"""The revision of a model: a hub commit, or a hash over the files of a directory.

The hash is SHA-256 over configuration, code and weight files, and those that say how images are prepared, in the order
of their names, each framed by the length of its name and of its content. Tokenizer and generation settings do not
change KV and are left out.
"""

import os
from hashlib import file_digest, sha256
from pathlib import Path

from huggingface_hub import hf_hub_download

from cachestore.errors import ConfigError

_PATTERNS = (
    "config.json", "*.py", "*.safetensors", "*.safetensors.index.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_known: dict[tuple[int, int, int, int], bytes] = {}
"""Digests of files by device, inode, size and mtime: weights are hashed once a process."""


def _digest(path: Path) -> tuple[int, bytes]:
    """Size and SHA-256 of one file."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        at = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        if at not in _known:
            _known[at] = file_digest(file, "sha256").digest()
        return about.st_size, _known[at]


def revision_files(directory: Path) -> list[Path]:
    """Configuration, code, weight files and how images are prepared, by name; ConfigError if there are no weights."""
    files = sorted({path for pattern in _PATTERNS for path in directory.glob(pattern)}, key=lambda path: path.name)
    if not any(path.suffix == ".safetensors" for path in files):
        raise ConfigError(f"engine.model: {directory} holds no *.safetensors files; convert the weights first")
    return files


def directory_revision(directory: Path) -> str:
    """The hash over these files, in hex; ConfigError if there are no weights."""
    whole = sha256()
    for path in revision_files(directory):
        size, content = _digest(path)
        name = path.name.encode()
        whole.update(len(name).to_bytes(4, "little") + name + size.to_bytes(8, "little") + content)
    return whole.hexdigest()


def hub_commit(model: str, revision: str) -> str:
    """The commit that a branch or tag of a hub model is now, without network what the hub's cache knows of it.

    Empty means the default branch. OSError or ValueError if there is no such model, or none with a configuration.
    """
    # the one file that every model has; the cache keeps it in a directory named by the commit
    return Path(hf_hub_download(model, "config.json", revision=revision or None)).parent.name
