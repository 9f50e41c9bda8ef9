"""Whatever of SGLang's settings changes KV is part of its revision, or has to be named by whoever starts it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed here: make integrations")

import sglang
from sglang.srt.arg_groups.arg_utils import namespace_of
from sglang.srt.arg_groups.choices import LOAD_FORMAT_CHOICES
from sglang.srt.environ import envs
from sglang.srt.runtime_context import get_context
from sglang.srt.server_args import ServerArgs

from cachestore.errors import ConfigError
from cachestore.integrations.sglang_revision import (
    CODE,
    ENVIRONMENT,
    LOAD_FORMATS,
    NAMED,
    NAMED_OF_DRAFTS,
    REPLACING,
    UNNAMED,
    model_revision,
)
from cachestore.metrics import total
from tests.integrations.sglang.engine import PAGE_TOKENS, Engine
from tests.integrations.sglang.harmless import ELSEWHERE, HARMLESS

pytestmark = pytest.mark.slow

Make = Callable[..., Engine]
REFUSED = r"revision: .*{}.*give a name that changes whenever that does"
CHANGES: list[dict[str, Any]] = [
    {"json_model_override_args": '{"rms_norm_eps": 1}'},
    {"quantization": "fp8"},
    {"modelopt_quant": "fp8"},
    {"kv_cache_dtype": "bf16"},
    {"kv_cache_dtype": "bf16", "dtype": "float32"},
    {"kv_cache_dtype": "bf16", "dtype": "half"},
    {"rl_on_policy_target": "fsdp"},
    {"enable_hisparse": True},
    {"weight_version": "step-7"},
    {"mm_process_config": {"image": {"max_pixels": 100}}},
    {"enable_quant_communications": True},
]
UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"custom_weight_loader": ["a.b"]}, "--custom-weight-loader: weights are to be replaced by"),
    ({"rl_quant_profile": "/profile"}, "--rl-quant-profile: the weights are quantised by /profile"),
    ({"kt_weight_path": "/experts"}, "--kt-weight-path: weights of experts come from /experts"),
    ({"quantization_param_path": "/scales"}, "--quantization-param-path: the scales of quantised KV come from"),
    ({"modelopt_checkpoint_restore_path": "/x"}, "--modelopt-checkpoint-restore-path: the weights come from /x"),
    ({"decrypted_config_file": "/x"}, "--decrypted-config-file: the configuration comes from /x"),
    ({"checkpoint_engine_wait_weights_before_ready": True}, "the weights come from another process"),
    ({"weight_cache_mode": "client"}, "--weight-cache-mode client takes weights from a process"),
    ({"model_loader_extra_config": '{"presharded_path": "/x"}'}, "--model-loader-extra-config has presharded_path"),
    ({"model_config_parser": "mistral"}, "params.json or a parser of its own configures the model"),
    ({"speculative_draft_load_format": "dummy"}, "--speculative-draft-load-format dummy"),
    ({"language_only": True}, "--language-only: other servers encode"),
    ({"forward_hooks": [{"name": "x"}]}, "--forward-hooks: hooks may change what is computed"),
]
ALIKE: dict[str, Any] = {
    "context_length": 999,
    "dtype": "bfloat16",
    "load_format": "safetensors",
    "model_loader_extra_config": '{"num_threads": 3}',
    "attention_backend": "triton",
    "chunked_prefill_size": 64,
    "hicache_ratio": 3.0,
    "served_model_name": "other",
    "random_seed": 7,
    "download_dir": "/elsewhere",
    "cpu_offload_gb": 1,
    "speculative_algorithm": "NGRAM",
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    directory = tmp_path / "model"
    return files(directory, b"weights")


def files(directory: Path, weights: bytes) -> str:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "model.safetensors").write_bytes(weights)
    return str(directory)


def named(model: str, given: str = "", kept: str = "bfloat16", **server: Any) -> str:
    """The revision of an engine that was started so."""
    with get_context().override_server_args(model_path=model, **server):
        return model_revision(given, kept)


def test_engines_of_one_directory_share_whatever_else_they_are_started_with(engine: Make, model: str) -> None:
    tokens = random.Random(1).choices(range(1, 5000), k=16 * PAGE_TOKENS)
    assert engine(model=model, revision="").store(tokens) == 16
    assert engine(model=model, revision="", server=ALIKE).load(tokens) == 16
    for change in CHANGES:
        assert engine(model=model, revision="", server=change).load(tokens) == 0, change
    for change, message in UNKNOWN:
        with pytest.raises(ConfigError, match=REFUSED.format(message)):
            engine(model=model, revision="", server=change)


@pytest.mark.parametrize("given", ["", "one"])
def test_each_setting_makes_another_revision_and_the_same_one_everywhere(model: str, given: str) -> None:
    found = [named(model, given)] + [named(model, given, **change) for change in CHANGES]
    assert len(set(found)) == len(CHANGES) + 1
    assert found == [named(model, given)] + [named(model, given, **change) for change in CHANGES]
    assert {name: named(model, given, **{name: value}) for name, value in ALIKE.items()} == dict.fromkeys(
        ALIKE, found[0]
    )


@pytest.mark.parametrize("change, message", UNKNOWN)
def test_what_has_no_name_needs_a_revision(model: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED.format(message)):
        named(model, **change)
    assert named(model, "one", **change).startswith("one ")


@pytest.mark.parametrize("name", sorted({*LOAD_FORMAT_CHOICES, "ipc_cache", "mine"} - LOAD_FORMATS))
def test_weights_from_elsewhere_need_a_revision(model: str, name: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED.format(f"--load-format {name} takes weights from elsewhere")):
        named(model, load_format=name)
    assert named(model, "one", load_format=name)


def test_a_model_that_sglang_configures_by_params_json_needs_a_revision() -> None:
    commit = "0" * 40
    with pytest.raises(ConfigError, match=r"params\.json"):
        named("company/Mistral-Small-4", revision=commit)
    assert named("company/Mistral-7B", revision=commit).startswith(commit)
    assert named("company/Mistral-Small-4", revision=commit, model_config_parser="hf").startswith(commit)


def test_the_type_that_is_computed_in_counts_where_that_of_the_kv_does_not_follow_it(model: str) -> None:
    assert named(model, dtype="half", kept="float16") == named(model, kept="float16")
    # the checkpoint says that its KV is quantised
    kept = "float8_e4m3fn"
    assert named(model, dtype="half", kept=kept) == named(model, dtype="float16", kept=kept)
    assert named(model, dtype="half", kept=kept) != named(model, dtype="bfloat16", kept=kept)


def test_a_model_that_drafts_is_named_by_its_files(model: str, tmp_path: Path) -> None:
    one, two = (files(tmp_path / name / "draft", name.encode()) for name in ("one", "two"))
    copy = files(tmp_path / "copy", b"one")
    found = [named(model, speculative_draft_model_path=path) for path in ("", one, two, model)]
    assert len(set(found)) == 4
    assert named(model, speculative_draft_model_path=copy).replace('"copy"', '"draft"') == found[1]
    with pytest.raises(ConfigError, match="revision: nothing says which weights 'some/draft' has"):
        named(model, speculative_draft_model_path="some/draft", speculative_draft_model_revision="main")


def test_what_the_environment_changes_is_named(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {named(model)}
    for name in ENVIRONMENT:
        assert hasattr(envs, name)
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            found.add(named(model))
    assert len(found) == len(ENVIRONMENT) + 1
    for name in CODE:
        assert hasattr(envs, name)
        with monkeypatch.context() as patch, pytest.raises(ConfigError, match=f"{name}: the model's code comes from"):
            patch.setenv(name, "package")
            named(model)


def test_weights_that_are_replaced_are_under_another_name_once_the_backend_is_attached_again(
    engine: Make, model: str, tmp_path: Path
) -> None:
    old, new = (random.Random(seed).choices(range(1, 5000), k=4 * PAGE_TOKENS) for seed in (2, 3))
    one, two = engine(model=model, revision=""), engine(model=model, revision="")
    assert one.store(old) == 4
    changes: list[dict[str, Any]] = [
        {"revision": "two"},
        # what SGLang says of itself after /update_weights_from_disk, and after updates with a `weight_version`
        {"model": files(tmp_path / "later" / "model", b"other")},
        {"server": {"weight_version": "two"}},
    ]
    for change in changes:
        one.attach_again(**{"model": model, **change})
        assert one.load(old) == 0
        assert one.store(new) == 4 and one.load(new) == 4
        assert two.load(new) == 0
    one.attach_again(model)
    assert one.load(old) == 4


REPLACED: list[tuple[str, str, dict[str, str]]] = [
    ("model_executor/model_runner.py", "model_runner.update_model_fields", {"model_path": "/x", "load_format": "auto"}),
    ("managers/scheduler.py", "scheduler.weight_version", {"weight_version": "two"}),
]
"""Where SGLang notes that weights were replaced, and how."""


@pytest.mark.parametrize("path, source, fields", REPLACED)
def test_replaced_weights_are_kept_from_the_old_ones_name_until_the_backend_is_attached_again(
    engine: Make, model: str, path: str, source: str, fields: dict[str, str]
) -> None:
    text = (Path(sglang.__file__).parent / "srt" / path).read_text()
    assert text.count(f'"{source}"') == 1 and source in REPLACING
    old, new = (random.Random(seed).choices(range(1, 5000), k=4 * PAGE_TOKENS) for seed in (4, 5))
    one, two = engine(model=model), engine(model=model)
    assert one.store(old) == 4
    with get_context().override_server_args(model_path=model):
        get_context().override("scheduler.attach_hicache", hicache_storage_backend="dynamic")
        assert one.load(old) == 4
        get_context().override(source, **fields)
        assert one.load(old) == 0 and one.store(new) == 0
        for operation in ("lookup", "save"):
            assert total(one.backend.figures(), "other_weights", operation=operation) == 1
    assert two.load(new) == 0
    one.attach_again(model, revision="two")
    assert one.load(old) == 0 and one.store(new) == 4 and one.load(new) == 4
    assert two.load(new) == 0 and two.load(old) == 4


def test_every_setting_of_sglangs_was_sorted() -> None:
    known = {name for names in HARMLESS.values() for name in names.split()}
    ours = {*NAMED, *NAMED_OF_DRAFTS, *UNNAMED, *ELSEWHERE}
    theirs = namespace_of(ServerArgs)
    assert not known & ours
    assert not theirs.keys() - known - ours, "does it change KV? sglang_revision.py, or tests' harmless.py"
    assert not (known | ours) - theirs.keys(), "SGLang has these no more"
    assert {bag: sorted(names.split()) for bag, names in HARMLESS.items()} == {
        bag: sorted(name for name, path in theirs.items() if path == bag and name in known) for bag in HARMLESS
    }
