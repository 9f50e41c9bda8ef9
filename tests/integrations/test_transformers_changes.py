"""What changes a model's KV beside its weights: hooks, functions, settings, tables; and weights that stay hidden."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, LayerwiseCastingHook, add_hook_to_module
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import AttentionInterface, AutoModelForCausalLM, MixtralConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cachestore.errors import ConfigError, UnsupportedModel
from cachestore.integrations.transformers import PrefixCache
from cachestore.store.base import Store
from cachestore.store.tiered import TieredStore
from tests.engine.models import CONFIGS, SHAPE
from tests.integrations.test_transformers import cold, made, prompt, warm
from tests.integrations.test_transformers_naming import CHANGED, loaded, saved

FOREIGN = "is not the model's own"


@pytest.fixture
def store(tiered: TieredStore) -> Store:
    return tiered.namespace("default")


@pytest.fixture
def registered() -> Iterator[str]:
    """The name of an attention that somebody registered."""

    def attention(*arguments: Any, **settings: Any) -> Any:
        output, weights = sdpa_attention_forward(*arguments, **settings)
        return output * 0.5, weights

    AttentionInterface.register("halved", attention)
    yield "halved"
    del AttentionInterface._global_mapping["halved"]


def hooked(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda module, given, output: output + 1.0)


def hooked_before(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_pre_hook(lambda module, given: (given[0] * 2,))


def replaced(model: Any) -> None:
    layer = model.model.layers[0]
    forward = layer.forward

    @functools.wraps(forward)
    def steered(*arguments: Any, **settings: Any) -> Any:
        return forward(*arguments, **settings) + 1.0

    layer.forward = steered


def cast(model: Any) -> None:
    add_hook_to_module(
        model.model.layers[0].mlp, LayerwiseCastingHook(torch.float8_e4m3fn, torch.float32, non_blocking=False)
    )


@pytest.mark.parametrize("change", [hooked, hooked_before, replaced, cast])
def test_what_others_put_into_the_computing_asks_for_a_revision(
    store: Store, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    model, ids = loaded(saved(tmp_path)), prompt(70)
    cache = PrefixCache(store, model)
    other = loaded(tmp_path)
    for each in (model, other):
        change(each)
    with pytest.raises(ConfigError, match=CHANGED):
        cache.load(ids)
    with pytest.raises(UnsupportedModel, match=rf"(hook of |)model\.layers\.\d\S* {FOREIGN}.*give a revision"):
        PrefixCache(store, other)
    given = PrefixCache(store, other, revision="steered")
    assert given.load(ids).get_seq_length() == 0
    hooked(other)
    with pytest.raises(ConfigError, match="the model's modules changed"):
        given.load(ids)


def test_hooks_of_every_module_and_other_forwards_of_a_class_are_seen(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(saved(tmp_path))
    cache = PrefixCache(store, model)
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, output: None)
    try:
        with pytest.raises(ConfigError, match=CHANGED):
            cache.load(prompt(70))
    finally:
        handle.remove()
    cache.load(prompt(70))
    kind = type(model.model.norm)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, states: forward(self, states) * 2)
    with pytest.raises(ConfigError, match=CHANGED):
        cache.load(prompt(70))


def test_hooks_that_compute_nothing_are_the_models_own(store: Store, tmp_path: Path) -> None:
    model, ids = loaded(saved(tmp_path)), prompt(70)
    cache = PrefixCache(store, model)
    # with it transformers puts hooks of its own into the model
    model(ids, output_hidden_states=True)
    add_hook_to_module(model.model.layers[0], AlignDevicesHook(io_same_device=True))
    assert torch.equal(warm(cache, ids), cold(model, ids))


def test_attention_that_somebody_registered_asks_for_a_revision(store: Store, tmp_path: Path, registered: str) -> None:
    model = loaded(saved(tmp_path))
    cache = PrefixCache(store, model)
    model.set_attn_implementation("eager")
    cache.load(prompt(70))
    model.set_attn_implementation(registered)
    with pytest.raises(ConfigError, match=CHANGED):
        cache.load(prompt(70))
    with pytest.raises(UnsupportedModel, match=f"attn_implementation 'halved' {FOREIGN}"):
        PrefixCache(store, loaded(tmp_path, attn_implementation=registered))


def test_settings_that_change_after_naming_are_refused(store: Store, tmp_path: Path) -> None:
    model, ids = loaded(saved(tmp_path, "mistral")), prompt(70)
    for revision in ("", "given"):
        cache = PrefixCache(store, model, revision=revision)
        # of which KV knows nothing
        model.config.pad_token_id, model.config.use_cache = 5, True
        cache.load(ids)
        window, model.config.sliding_window = model.config.sliding_window, 3
        with pytest.raises(ConfigError, match="the model's settings changed"):
            cache.load(ids)
        model.config.sliding_window = window
        rope = model.config.rope_parameters
        rope["rope_theta"] *= 2
        with pytest.raises(ConfigError, match="the model's settings changed"):
            cache.load(ids)
        rope["rope_theta"] /= 2
        cache.load(ids)


def test_tables_that_change_after_naming_are_refused(store: Store, tmp_path: Path) -> None:
    model = loaded(saved(tmp_path, "qwen3"))
    cache = PrefixCache(store, model)
    model.model.rotary_emb.inv_freq.mul_(0.25)
    with pytest.raises(ConfigError, match="the model's buffers changed"):
        cache.load(prompt(70))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_tables_that_were_rounded_ask_for_a_revision(store: Store, tmp_path: Path, name: str) -> None:
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(CONFIGS[name]()).bfloat16().save_pretrained(tmp_path)
    assert PrefixCache(store, loaded(tmp_path, dtype=torch.bfloat16)).spec.dtype == "bfloat16"
    # whose weights are those of the files in either case
    for rounded in (loaded(tmp_path, dtype=torch.float32).bfloat16(), loaded(tmp_path).bfloat16().float()):
        with pytest.raises(ConfigError, match=r"tables of model\.rotary_emb are not .*; load the model with dtype"):
            PrefixCache(store, rounded)
        PrefixCache(store, rounded, revision="rounded")


def test_longrope_goes_between_its_tables(store: Store) -> None:
    model = made("phi3")
    cache = PrefixCache(store, model, revision="random", block_tokens=16)
    for tokens in (70, 300, 70):
        ids = prompt(tokens)
        assert torch.equal(warm(cache, ids), cold(model, ids))
    model.model.rotary_emb.original_inv_freq.mul_(2)
    with pytest.raises(ConfigError, match="the model's buffers changed"):
        cache.load(prompt(70))


def test_every_expert_and_every_norm_is_looked_at(store: Store) -> None:
    torch.manual_seed(7)
    config = MixtralConfig(**SHAPE, num_local_experts=64)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    cache = PrefixCache(store, model, revision="random")
    stacked = [weight for weight in model.parameters() if weight.ndim == 3]
    assert stacked
    for weight in (stacked[0][1], stacked[-1][62]):
        weight.mul_(3)
        with pytest.raises(ConfigError, match="the model's weights changed"):
            cache.load(prompt(70))
        weight.div_(3)
    model.model.norm.weight[37] += 1
    with pytest.raises(ConfigError, match="the model's weights changed"):
        cache.load(prompt(70))


def test_weights_that_cannot_be_gathered_are_looked_at_too(store: Store, tmp_path: Path) -> None:
    model = loaded(saved(tmp_path))
    narrow = nn.Parameter(model.model.layers[0].mlp.up_proj.weight.to(torch.float8_e4m3fn), requires_grad=False)
    model.model.layers[0].mlp.up_proj.weight = narrow
    model.model.layers[0].mlp.empty = nn.Parameter(torch.empty(0, 4), requires_grad=False)
    model.save_pretrained(tmp_path)
    # files say the same of it, and the empty one is there
    cache = PrefixCache(store, model)
    cache.load(prompt(70))
    given = PrefixCache(store, model, revision="given")
    narrow.view(torch.uint8)[0, 0] += 1
    for each in (cache, given):
        with pytest.raises(ConfigError, match="the model's weights changed"):
            each.load(prompt(70))


def test_of_weights_around_others_those_are_looked_at(store: Store, tmp_path: Path) -> None:
    model, ids = loaded(saved(tmp_path)), prompt(70)
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(TwoTensor(layer.weight.detach(), layer.weight.detach().clone()), requires_grad=False)
    with pytest.raises(ConfigError, match="revision: 1 weights of the model have no like"):
        PrefixCache(store, model)
    cache = PrefixCache(store, model, revision="two")
    cache.load(ids)
    layer.weight.b[0, 0] += 1
    with pytest.raises(ConfigError, match="the model's weights changed"):
        cache.load(ids)


def test_weights_that_are_offloaded_are_refused(store: Store, tmp_path: Path) -> None:
    model = loaded(saved(tmp_path / "model"))
    cache = PrefixCache(store, model)
    cpu_offload(model, execution_device=torch.device("cpu"))
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "model.rotary_emb": "cpu",
              "lm_head": "cpu"}  # fmt: skip
    disk = loaded(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offloaded")
    for refused in (
        lambda: PrefixCache(store, model, revision="r"), lambda: cache.load(prompt(70)),
        lambda: PrefixCache(store, disk), lambda: PrefixCache(store, disk, revision="r"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedModel, match=r"model\.\S+ is offloaded to .*; load the model with a device_map"):
            refused()
