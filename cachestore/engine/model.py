"""What a model is before its weights are loaded: configuration, spec, tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from cachestore.block import BlockSpec
from cachestore.engine.layers import text_config
from cachestore.engine.revision import directory_revision, hub_commit, revision_files
from cachestore.engine.rotary import SHORT, longrope_switch
from cachestore.engine.settings import EngineSettings
from cachestore.engine.spec import spec_of
from cachestore.errors import ConfigError, InvalidArgument, UnsupportedModel
from cachestore.recipe import canonical


def pinned(settings: EngineSettings) -> EngineSettings:
    """With the commit that a hub model's branch is now: it may move before the weights are read.

    ConfigError if there is no such model.
    """
    if Path(settings.model).is_dir():
        if settings.revision:
            raise ConfigError("engine.revision is for hub ids; leave it empty: the files of a directory say it")
        return settings
    try:
        return replace(settings, revision=hub_commit(settings.model, settings.revision))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"engine.model: looked for {settings.model!r} as a directory and as a hub id, found neither"
        ) from error


def model_config(settings: EngineSettings) -> Any:
    """The model's configuration. ConfigError if there is none, UnsupportedModel if it needs foreign code."""
    settings = pinned(settings)
    if Path(settings.model).is_dir() and not (Path(settings.model) / "config.json").is_file():
        raise ConfigError(f"engine.model: looked for config.json in the directory {settings.model!r}, found none")
    try:
        return AutoConfig.from_pretrained(settings.model, revision=settings.revision or None, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"transformers cannot read the configuration: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What transformers says, without the advice that fills the rest of its messages."""
    return str(error).strip().split("\n", 1)[0]


def model_spec(settings: EngineSettings, config: Any = None) -> BlockSpec:
    """The spec under which this engine's blocks are stored. UnsupportedModel if the model's KV has no name."""
    settings = pinned(settings)
    config = model_config(settings) if config is None else config
    directory = Path(settings.model)
    return _spec(settings, config, directory_revision(directory) if directory.is_dir() else settings.revision)


def check_directory(settings: EngineSettings) -> None:
    """ConfigError or UnsupportedModel for a model's directory that could not be used; its weights are not read."""
    revision_files(Path(settings.model))
    # the revision is a hash over the weights, which takes minutes of a large model
    _spec(settings, model_config(settings), "unread")


def _spec(settings: EngineSettings, config: Any, revision: str) -> BlockSpec:
    # a directory is named by what it holds, so that nodes which keep it elsewhere share its KV
    name = str(config.model_type) if Path(settings.model).is_dir() else settings.model
    try:
        return spec_of(
            config,
            model=name,
            revision=revision,
            dtype=settings.dtype,
            block_tokens=settings.block_tokens,
            head_groups=settings.head_groups,
            rotary_regime=SHORT if longrope_switch(text_config(config)) else "",
            recipe=canonical(settings.recipe),
        )
    except InvalidArgument as error:
        raise ConfigError(f"[engine] does not fit the model: {error}") from error


def tokenizer(settings: EngineSettings) -> Any:
    """The tokenizer beside the model. ConfigError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(settings.model, revision=settings.revision or None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"engine.model: {settings.model!r} has no tokenizer that can be read") from error
