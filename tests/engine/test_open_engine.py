"""Settings, opening and revisions: what works and what is said when it does not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, BertConfig

from cachestore.config import build
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.revision import directory_revision
from cachestore.engine.runner import Runner
from cachestore.engine.settings import EngineSettings
from cachestore.errors import ConfigError, InvalidArgument, UnsupportedModel

ModelDir = Callable[[str], Path]


def copy_of(source: Path, target: Path, **changes: Any) -> Path:
    """The model with other fields in its configuration."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def opened(directory: Path, **settings: Any) -> PagedModel:
    engine = PagedModel(EngineSettings(str(directory), **settings))
    engine.open()
    return engine


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": ""}, "engine.model"),
        ({"dtype": "float8"}, "engine.dtype 'float8'.*bfloat16"),
        ({"device": "tpu"}, "engine.device 'tpu'.*cpu"),
        ({"block_tokens": 0}, "engine.block_tokens"),
        ({"head_groups": -1}, "engine.head_groups"),
        ({"threads": -1}, "engine.threads"),
        ({"adapter": "lora"}, "engine.adapter"),
        ({"modle": "x"}, "engine.modle.*did you mean 'model'"),
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(EngineSettings, {"model": "m", **wrong}, "engine")


def test_settings_from_a_table() -> None:
    assert build(EngineSettings, {"model": "m"}, "engine") == EngineSettings("m")


def test_an_open_engine_tells_what_it_is(model_dir: ModelDir) -> None:
    engine = opened(model_dir("llama"))
    assert (engine.max_tokens, engine.vocabulary, engine.eos_tokens) == (1024, 97, frozenset({2}))
    assert engine.spec.model == "llama"
    assert engine.spec.revision == directory_revision(model_dir("llama"))
    engine.close()
    engine.close()
    runner = Runner(engine, 1)
    with pytest.raises(InvalidArgument, match="not open"):
        runner.step([(runner.start([5]), 1)])


def test_longrope_stays_in_its_short_regime(model_dir: ModelDir) -> None:
    engine = opened(model_dir("phi3"))
    assert engine.spec.rotary_regime == "short"
    assert engine.max_tokens == 256


def test_the_same_files_elsewhere_are_the_same_model(model_dir: ModelDir, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(model_dir("llama"), moved)
    assert opened(moved).spec == opened(model_dir("llama")).spec


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"looked for .*nowhere"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"looked for config\.json"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match=r"engine\.revision"):
        opened(tmp_path, revision="main")


def test_weights_must_be_safetensors(model_dir: ModelDir, tmp_path: Path) -> None:
    bare = copy_of(model_dir("llama"), tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    torch.save({}, bare / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        opened(bare)


def test_models_that_cannot_be_served(model_dir: ModelDir, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="novel"):
        opened(copy_of(model_dir("llama"), tmp_path / "novel", model_type="novel"))
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(UnsupportedModel, match="dynamic"):
        opened(copy_of(model_dir("llama"), tmp_path / "dynamic", rope_parameters=dynamic))
    with pytest.raises(ConfigError, match="head_groups = 3"):
        opened(model_dir("llama"), head_groups=3)


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=97, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="not causal"):
        opened(tmp_path)


def test_a_device_that_is_not_there(model_dir: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    for count, words in ((0, "no CUDA device; use 'cpu'"), (3, "3 CUDA devices; use an index below")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(ConfigError, match=f"engine.device = 'cuda:99': torch sees {words}"):
            opened(model_dir("llama"), device="cuda:99")


def test_threads_are_set(model_dir: ModelDir) -> None:
    try:
        opened(model_dir("llama"), threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_revision_is_that_of_the_content(model_dir: ModelDir, tmp_path: Path) -> None:
    first = directory_revision(model_dir("llama"))
    same = copy_of(model_dir("llama"), tmp_path / "same")
    shutil.copy(model_dir("llama") / "config.json", same / "config.json")
    (same / "tokenizer.json").write_text("{}")
    assert directory_revision(same) == first
    assert directory_revision(copy_of(same, tmp_path / "rope", rope_theta=1.0)) != first
    # which some engines compute by, where they are told to trust it
    (same / "modeling.py").write_text("BIAS = 1")
    assert directory_revision(same) != first
    (same / "modeling.py").unlink()
    with (same / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert directory_revision(same) != first


def test_a_hub_model_is_named_by_the_commit_it_is_loaded_from(
    model_dir: ModelDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the hub's cache as its client lays it out, and a branch that moved from one commit to another
    older, newer = (copy_of(model_dir("llama"), tmp_path / name) for name in ("older", "newer"))
    (newer / "config.json").write_text((older / "config.json").read_text().replace('"silu"', '"gelu"'))
    cached = tmp_path / "hub" / "models--org--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("b" * 40)
    shutil.copytree(older, cached / "snapshots" / ("a" * 40))
    shutil.copytree(newer, cached / "snapshots" / ("b" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision, commit, activation in (("", "b", "gelu"), ("main", "b", "gelu"), ("a" * 40, "a", "silu")):
        model = PagedModel(EngineSettings("org/model", revision=revision, threads=1))
        model.open()
        assert (model.spec.model, model.spec.revision) == ("org/model", commit * 40)
        assert model._model.config.hidden_act == activation
        model.close()
    with pytest.raises(ConfigError, match="looked for 'org/none' as a directory and as a hub id, found neither"):
        PagedModel(EngineSettings("org/none")).open()
