"""Whatever of vLLM's settings changes KV is part of its revision, or has to be named by whoever starts it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

import torch
from vllm import config as settings
from vllm import envs
from vllm.config import LoRAConfig, VllmConfig
from vllm.config.diffusion import DiffusionConfig
from vllm.config.multimodal import MultiModalConfig
from vllm.config.quantization import QuantizationConfigArgs

from cachestore.errors import ConfigError, UnsupportedModel
from cachestore.integrations.vllm_naming import base_spec
from cachestore.integrations.vllm_revision import (
    ADAPTERS,
    ATTENTION,
    LOAD_FORMATS,
    VARIABLES,
    adapter_settings,
    model_revision,
)
from tests.integrations.vllm.harmless import ELSEWHERE, HARMLESS, HARMLESS_VARIABLES
from tests.integrations.vllm.model import Shape, config_of

pytestmark = pytest.mark.slow

ROUTING = "VLLM_MOE_ROUTING_SIMULATION_STRATEGY"


def config(directory: Path, **model: Any) -> VllmConfig:
    return config_of(directory, Shape(), 8, 256, {}, **model)


def changed(directory: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> VllmConfig:
    """vLLM's configuration with one setting that changes KV."""
    if change == "override":
        return config(directory, hf_overrides={"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})
    made = config(directory)
    if change == "quantization":
        made.model_config.quantization_config = QuantizationConfigArgs(linear="fp8_per_tensor")
    elif change == "parts":
        made.model_config.quantization_config = QuantizationConfigArgs(linear="fp8_per_tensor", ignore=["lm_head"])
    elif change == "class":
        made.model_config.model_class_overrides = {"LlamaForCausalLM": "mine:Llama"}
    elif change == "code":
        made.model_config.code_revision = "f00"
    elif change == "platform":
        made.additional_config = {"fast": True}
    elif change == "routing":
        monkeypatch.setenv(ROUTING, "uniform_random")
    elif change == "pictures":
        made.model_config.multimodal_config = MultiModalConfig(mm_processor_kwargs={"max_pixels": 100})
    elif change == "videos":
        made.model_config.multimodal_config = MultiModalConfig(video_pruning_rate=0.5)
    elif change == "attention":
        made.attention_config.indexer_kv_dtype = "fp8"
    elif change == "loading":
        made.load_config.ignore_patterns = ["*-00001*"]
    elif change in VARIABLES:
        monkeypatch.setenv(change, "mxfp8")
    return made


MODEL = ("override", "quantization", "parts", "class", "code", "platform", "routing", "pictures", "videos")
CHANGES = (*MODEL, "attention", "loading", "VLLM_HUMMING_ONLINE_QUANT_CONFIG", "VLLM_MARLIN_INPUT_DTYPE")


@pytest.mark.parametrize("given", ["", "one"])
def test_each_setting_makes_another_revision_and_the_same_one_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    found = [model_revision(config(tmp_path), given)]
    for change in CHANGES:
        with monkeypatch.context() as patch:
            found.append(model_revision(changed(tmp_path, change, patch), given))
            assert model_revision(changed(tmp_path, change, patch), given) == found[-1]
            assert found[-1].startswith(found[0]) and " at 0x" not in found[-1]
    assert len(set(found)) == len(CHANGES) + 1


def test_a_model_for_images_has_its_plain_name(tmp_path: Path) -> None:
    plain = config(tmp_path)
    revision = model_revision(plain, "")
    plain.model_config.multimodal_config = MultiModalConfig()
    assert model_revision(plain, "") == revision


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hf_overrides": {"eos": len}}, "--hf-overrides is a function, or holds one"),
        ({"hf_config_path": "elsewhere"}, "--hf-config-path elsewhere has the configuration of another model"),
        ({"model_weights": "s3://bucket/model"}, "the weights come from s3://bucket/model"),
        ({"config_format": "mistral"}, "params.json configures the model"),
    ],
)
def test_what_has_no_name_needs_a_revision(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made = config(tmp_path)
    for name, value in change.items():
        setattr(made.model_config, name, value)
    with pytest.raises(ConfigError, match=f"revision: {message}.*give a name that changes whenever that does"):
        model_revision(made, "")
    assert model_revision(made, "one") == "one"


def test_a_directory_in_mistrals_format_needs_a_revision(tmp_path: Path) -> None:
    made = config(tmp_path)
    (tmp_path / "params.json").write_text("{}")
    assert model_revision(made, "")
    # from here on vLLM prefers that format
    (tmp_path / "consolidated.safetensors").write_bytes(b"weights")
    with pytest.raises(ConfigError, match=r"revision: params\.json configures the model"):
        model_revision(made, "")


@pytest.mark.parametrize("name", ["dummy", "pt", "npcache", "tensorizer", "sharded_state", "ipc_cache", "mine"])
def test_weights_from_elsewhere_need_a_revision(tmp_path: Path, name: str) -> None:
    made = config(tmp_path)
    made.load_config.load_format = name
    with pytest.raises(ConfigError, match=f"revision: --load-format {name} takes weights from elsewhere"):
        model_revision(made, "")
    assert model_revision(made, "one") == "one"


def test_ways_of_loading_the_same_files_share(tmp_path: Path) -> None:
    made, found = config(tmp_path), set()
    for name in LOAD_FORMATS:
        made.load_config.load_format = name
        found.add(model_revision(made, ""))
    assert len(found) == 1


def test_diffusion_models_are_refused(tmp_path: Path) -> None:
    made = config(tmp_path)
    made.diffusion_config = DiffusionConfig(canvas_length=32)
    with pytest.raises(UnsupportedModel, match="a diffusion model"):
        base_spec(made, 0, "one")


def test_what_vllm_makes_of_an_adapters_files_is_part_of_its_name(tmp_path: Path) -> None:
    made = config(tmp_path)
    found = [adapter_settings(made)]
    made.lora_config = LoRAConfig()
    found.append(adapter_settings(made))
    assert found == ["", ""]
    for given in (
        {"target_modules": ["o_proj"]},
        {"target_modules": ["qkv_proj"]},
        {"enable_tower_connector_lora": True},
        {"enable_moe_shared_loras": True},
        {"lora_dtype": torch.float16},
    ):
        made.lora_config = LoRAConfig(**given)
        found.append(adapter_settings(made))
    assert len(set(found)) == 6


def test_how_images_are_prepared_is_part_of_a_directorys_name(tmp_path: Path) -> None:
    plain = model_revision(config(tmp_path), "")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    half = model_revision(config(tmp_path), "")
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.4]}')
    assert len({plain, half, model_revision(config(tmp_path), "")}) == 3


@pytest.mark.parametrize("name", HARMLESS)
def test_every_setting_of_vllms_was_sorted(name: str) -> None:
    theirs = {field.name for field in dataclasses.fields(getattr(settings, name))}
    known, ours = set(HARMLESS[name].split()), set(ELSEWHERE[name].split())
    ours |= {"AttentionConfig": {*ATTENTION}, "LoRAConfig": {*ADAPTERS}}.get(name, set())
    assert not known & ours
    assert not theirs - known - ours, "does it change KV? vllm_revision.py, or tests' harmless.py"
    assert not (known | ours) - theirs, "vLLM has these no more"


def test_every_variable_of_vllms_was_sorted() -> None:
    known = {name for names in HARMLESS_VARIABLES.values() for name in names.split()}
    theirs = set(envs.environment_variables)
    assert not known & {*VARIABLES}
    assert not theirs - known - {*VARIABLES}, "does it change KV? vllm_revision.py, or tests' harmless.py"
    assert not (known | {*VARIABLES}) - theirs, "vLLM has these no more"
