"""A model in transformers has the name of its KV only as long as it is the model that was named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, Gemma3Config, Qwen2_5_VLConfig

from cachestore.engine.revision import directory_revision
from cachestore.errors import ConfigError, InvalidArgument, UnsupportedModel
from cachestore.integrations.transformers import PrefixCache, cached_generate
from cachestore.store.tiered import TieredStore
from tests.engine.models import CONFIGS
from tests.integrations.test_transformers import prompt

CHANGED = "revision: .*changed.*; make a PrefixCache with a revision"
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 97, "head_dim": 8}  # fmt: skip
NOT_THERE = "revision: .* of the model is not what .* holds.*; give a revision"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return saved(tmp_path / "model")


def saved(directory: Path, name: str = "llama", seed: int = 7) -> Path:
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(directory)
    return directory


def loaded(directory: Path, **settings: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, **settings).eval().requires_grad_(False)


def test_settings_that_make_other_kv_make_other_names(tiered: TieredStore, directory: Path) -> None:
    store = tiered.namespace("default")

    def named(given: str = "", **settings: Any) -> tuple[str, str]:
        spec = PrefixCache(store, loaded(directory, **settings), revision=given).spec
        return spec.revision, spec.dtype

    plain, dtype = named()
    assert named() == (plain, dtype)
    assert named(rms_norm_eps=0.25) == (f'{plain} {{"rms_norm_eps": 0.25}}', dtype)
    assert named(hidden_act="gelu") == (f'{plain} {{"hidden_act": "gelu"}}', dtype)
    assert named("mine", hidden_act="gelu") == ('mine {"hidden_act": "gelu"}', dtype)
    # which are of how it is computed
    assert named(attn_implementation="eager", use_cache=False) == (plain, dtype)
    assert named(dtype=torch.float16) == (plain, "float16")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weights_of_a_directory_are_known_again(tiered: TieredStore, tmp_path: Path, name: str) -> None:
    model = loaded(saved(tmp_path, name), dtype=torch.bfloat16)
    if getattr(model.config, "num_kv_shared_layers", 0) and not hasattr(model.config, "kv_sharing_modes"):
        pytest.skip("layers that share KV need transformers 5.23")
    store = tiered.namespace("default")
    try:
        assert " " not in PrefixCache(store, model).spec.revision
    except ConfigError as error:
        # experts are merged when they are loaded
        assert name in ("mixtral", "qwen2_moe")
        told = re.search(r"weights of the model have no like in .*; if they are .* give revision='(\w+)'", str(error))
        assert told and PrefixCache(store, model, revision=told[1]).spec.revision == directory_revision(tmp_path)


def test_weights_that_are_not_those_of_the_directory_are_refused(tiered: TieredStore, directory: Path) -> None:
    store = tiered.namespace("default")
    # its configuration says that it came from there
    with pytest.raises(ConfigError, match=NOT_THERE):
        PrefixCache(store, AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory)))
    trained = loaded(directory)
    trained.model.layers[1].self_attn.k_proj.weight.mul_(1.5)
    with pytest.raises(ConfigError, match=r"layers\.1\.self_attn\.k_proj\.weight of the model is not what"):
        PrefixCache(store, trained)
    assert PrefixCache(store, trained, revision="trained").spec.revision == "trained"
    model, file = loaded(directory), directory / "model.safetensors"
    save_file({name: value * 2 for name, value in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match=NOT_THERE):
        cached_generate(store, model, prompt(20), max_new_tokens=1)


def test_a_directory_that_is_replaced_leaves_the_name_of_the_model_that_was_loaded(
    tiered: TieredStore, directory: Path
) -> None:
    store, model = tiered.namespace("default"), loaded(directory)
    before = PrefixCache(store, model).spec
    saved(directory, seed=8)
    assert PrefixCache(store, model).spec == before
    cached_generate(store, model, prompt(70), max_new_tokens=1)
    assert PrefixCache(store, loaded(directory)).load(prompt(70)).get_seq_length() == 0
    assert PrefixCache(store, model).load(prompt(70)).get_seq_length() == 64


def test_a_model_that_was_changed_after_it_was_named_is_refused(tiered: TieredStore, directory: Path) -> None:
    store, ids = tiered.namespace("default"), prompt(70)
    model = loaded(directory)
    cached_generate(store, model, ids, max_new_tokens=1)
    cache, given = PrefixCache(store, model), PrefixCache(store, model, revision="given")
    # which moves it, and no more
    model.to("cpu")
    past = cache.load(ids)
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})
    for refused in (
        lambda: cached_generate(store, model, ids, max_new_tokens=1), lambda: PrefixCache(store, model),
        lambda: cache.load(ids), lambda: cache.save(ids, past), lambda: given.generate(ids, max_new_tokens=1),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=CHANGED):
            refused()
    assert PrefixCache(store, model, revision="later").load(ids).get_seq_length() == 0
    other = loaded(directory)
    cache = PrefixCache(store, other)
    # which no tensor's own count of writes sees
    other.model.layers[1].self_attn.v_proj.weight.data.mul_(1.5)
    with pytest.raises(ConfigError, match=CHANGED):
        cache.load(ids)
    for change in (torch.nn.Module.half, lambda model: model.set_submodule("lm_head", torch.nn.Linear(64, 97, False))):
        changed = loaded(directory)
        cache = PrefixCache(store, changed)
        change(changed)
        with pytest.raises(ConfigError, match=CHANGED):
            cache.load(ids)


def test_models_that_compute_otherwise_than_they_are_known_for_are_refused(
    tiered: TieredStore, directory: Path
) -> None:
    store, ids = tiered.namespace("default"), prompt(70)
    model = loaded(directory)
    cache = PrefixCache(store, model)
    model.train()
    with pytest.raises(InvalidArgument, match=r"training mode.*call eval\(\)"):
        cache.load(ids)
    model.eval()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InvalidArgument, match="autocast"):
        cache.generate(ids, max_new_tokens=1)
    vision = AutoModelForImageTextToText.from_config(Qwen2_5_VLConfig(text_config=TEXT | {"rope_parameters": {
        "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}, vision_config={
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}))  # fmt: skip
    with pytest.raises(UnsupportedModel, match="model keeps positions of one call for the next"):
        PrefixCache(store, vision.eval(), revision="random")


# peft asks models by a name that transformers has given up
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_are_seen_however_they_came(tiered: TieredStore, directory: Path) -> None:
    store, settings = tiered.namespace("default"), LoraConfig(target_modules=["v_proj"], task_type="CAUSAL_LM")
    model, other = loaded(directory), loaded(directory)
    cache = PrefixCache(store, other)
    wrapped = get_peft_model(model, settings)
    for adapted in (wrapped, model):
        with pytest.raises(UnsupportedModel, match="give a revision that names the weights with it"):
            PrefixCache(store, adapted)
    get_peft_model(other, settings)
    with pytest.raises(ConfigError, match=CHANGED):
        cache.load(prompt(70))
    ids = prompt(70)
    wrapped.eval()
    for _ in range(2):
        tuned = PrefixCache(store, wrapped, revision="tuned")
        assert torch.equal(tuned.generate(ids, max_new_tokens=2, do_sample=False), wrapped.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False))  # fmt: skip
    assert tuned.load(ids).get_seq_length() == 64
    base = loaded(directory)
    cache = PrefixCache(store, base)
    merging = get_peft_model(base, settings)
    torch.nn.init.ones_(next(weight for name, weight in merging.named_parameters() if "lora_B" in name))
    assert merging.merge_and_unload() is base
    base.eval()
    for refused in (lambda: PrefixCache(store, base), lambda: cache.load(ids)):
        with pytest.raises(ConfigError, match=CHANGED):
            refused()


def test_prompts_with_images_are_refused(tiered: TieredStore, tmp_path: Path) -> None:
    store, ids = tiered.namespace("default"), prompt(40)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=TEXT, vision_config=vision, image_token_index=96)
    model = AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)
    cache = PrefixCache(store, model, revision="random", block_tokens=16)
    ids[0, :] = ids[0, :].clamp(max=95)
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
    for _ in range(2):
        assert torch.equal(cache.generate(ids, max_new_tokens=2, do_sample=False), expected)
    past = cache.load(ids)
    assert past.get_seq_length() == 32
    ids[0, 20] = 96
    for refused in (lambda: cache.load(ids), lambda: cache.save(ids, past), lambda: cache.generate(ids)):
        with pytest.raises(InvalidArgument, match="token 96 of row 0 stands for an image"):
            refused()
    model.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    del whole["image_token_index"]
    config.image_token_index = None
    with pytest.raises(UnsupportedModel, match="gemma3: its configuration names no token for what is not text"):
        PrefixCache(store, model, revision="random")
