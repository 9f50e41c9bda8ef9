"""Files tell which model of transformers it is, by weights, code and settings: a directory's, or a hub commit's."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cachestore.errors import ConfigError
from cachestore.integrations.transformers import PrefixCache
from cachestore.store.tiered import TieredStore
from tests.integrations.test_transformers_naming import loaded, saved

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.input_layernorm.variance_epsilon = EPSILON
"""


def with_code(directory: Path, epsilon: float) -> Path:
    """A model of the same weights always, whose code computes with this number."""
    saved(directory)
    file = directory / "config.json"
    named = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    settings = json.loads(file.read_text()) | {"model_type": "mine", "auto_map": named}
    file.write_text(json.dumps(settings | {"architectures": ["MineForCausalLM"]}))
    (directory / "modeling_mine.py").write_text(CODE.replace("EPSILON", str(epsilon)))
    return directory


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where code of models may be copied to and run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def test_a_hub_model_is_named_by_the_cached_commit_that_has_its_weights(
    tiered: TieredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the hub's cache as its client lays it out, with a branch that moved since the older one was loaded
    older, newer, cached = "b" * 40, "a" * 40, tmp_path / "models--org--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(newer)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    store = tiered.namespace("default")
    for commit, seed in ((older, 7), (newer, 8)):
        saved(cached / "snapshots" / commit, "llama", seed)

    def named(commit: str, given: str = "", **settings: Any) -> tuple[str, str]:
        model = loaded(cached / "snapshots" / commit, **settings)
        # as it is when the hub's client was asked for it
        model.config.name_or_path = "org/model"
        spec = PrefixCache(store, model, revision=given).spec
        return spec.model, spec.revision

    assert named(older) == ("org/model", older)
    assert named(newer, dtype=torch.float16) == ("org/model", newer)
    assert named(newer, rms_norm_eps=0.25) == ("org/model", f'{newer} {{"rms_norm_eps": 0.25}}')
    assert named(newer, given=newer, rms_norm_eps=0.25) == ("org/model", f'{newer} {{"rms_norm_eps": 0.25}}')
    # the same weights again, under another commit
    shutil.copytree(cached / "snapshots" / newer, cached / "snapshots" / ("0" * 40))
    same = cached / "snapshots" / ("0" * 40) / "model.safetensors"
    same.unlink()
    same.symlink_to(cached / "snapshots" / newer / "model.safetensors")
    assert named(newer) == ("org/model", newer)
    # a branch or tag is what it is in the cache
    assert named(newer, given="main", rms_norm_eps=0.25) == ("org/model", 'main {"rms_norm_eps": 0.25}')
    nothing = "revision: nothing says which weights 'org/model' has"
    saved(cached / "snapshots" / ("c" * 40), "mixtral")
    with pytest.raises(ConfigError, match=nothing):
        # its experts lie in other tensors than in the files
        named("c" * 40)
    # two commits that differ where no sample is taken
    repaired = shutil.copytree(cached / "snapshots" / older, cached / "snapshots" / ("d" * 40))
    weights = load_file(repaired / "model.safetensors")
    weights["model.embed_tokens.weight"][1, 1] += 1
    save_file(weights, repaired / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=nothing):
        named(older)


@pytest.mark.usefixtures("trusted")
def test_code_that_was_replaced_after_loading_is_not_that_of_the_model(tiered: TieredStore, tmp_path: Path) -> None:
    store, directory = tiered.namespace("default"), with_code(tmp_path / "model", 0.5)
    known, model = (loaded(directory, trust_remote_code=True) for _ in range(2))
    spec = PrefixCache(store, known).spec
    with_code(directory, 0.25)
    with pytest.raises(ConfigError, match=r"revision: modeling_mine\.py in .* is not the code that the model runs"):
        PrefixCache(store, model)
    # whose name was found while it was as the files said
    assert PrefixCache(store, known).spec == spec
    assert PrefixCache(store, loaded(directory, trust_remote_code=True)).spec.revision != spec.revision


@pytest.mark.usefixtures("trusted")
def test_commits_of_the_same_weights_and_other_code_are_told_apart(
    tiered: TieredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    # a file that the cache lacks is asked for again and again
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    store, cached, (older, newer) = tiered.namespace("default"), tmp_path / "models--org--model", ("b" * 40, "a" * 40)
    for commit, epsilon in ((older, 0.5), (newer, 0.25)):
        with_code(cached / "snapshots" / commit, epsilon)
    same = cached / "snapshots" / older / "model.safetensors"
    same.unlink()
    same.symlink_to(cached / "snapshots" / newer / "model.safetensors")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(newer)
    for commit in (older, newer):
        model = AutoModelForCausalLM.from_pretrained(
            "org/model", revision=commit, trust_remote_code=True, cache_dir=tmp_path, local_files_only=True
        )
        assert commit in type(model).__module__
        assert PrefixCache(store, model.eval()).spec.revision == commit


def test_settings_of_a_hub_model_are_named_beside_any_revision(
    tiered: TieredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    store, snapshots = tiered.namespace("default"), tmp_path / "models--org--model" / "snapshots"
    # the weights tell which of them it is, also where they are merged when loaded
    for commit, name, seed in (("a" * 40, "llama", 7), ("b" * 40, "llama", 8), ("c" * 40, "mixtral", 7)):
        saved(snapshots / commit, name, seed)
    file = snapshots / ("a" * 40) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.5}))
    for commit in ("b" * 40, "c" * 40):
        plain, other = loaded(snapshots / commit), loaded(snapshots / commit, hidden_act="gelu")
        for model in (plain, other):
            model.config.name_or_path = "org/model"
        assert PrefixCache(store, plain, revision="mine").spec.revision == "mine"
        assert PrefixCache(store, other, revision="mine").spec.revision == 'mine {"hidden_act": "gelu"}'


def test_files_that_cannot_be_read_are_named(tiered: TieredStore, tmp_path: Path) -> None:
    store, directory = tiered.namespace("default"), saved(tmp_path)
    model = loaded(directory)
    weights, config = directory / "model.safetensors", directory / "config.json"
    # the model's own are still read from that file
    kept = weights.rename(directory / "kept")
    weights.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=rf"{weights} cannot be read: .*give a revision"):
        PrefixCache(store, model)
    kept.rename(weights)
    config.write_text("{")
    for revision in ("", "given"):
        with pytest.raises(ConfigError, match=rf"{config} cannot be read"):
            PrefixCache(store, model, revision=revision)
