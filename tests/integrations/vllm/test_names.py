"""vLLM's connector gives KV of other weights, adapters, salts or images other names, and the same ones the same."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make integrations")

from safetensors.numpy import save_file
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from cachestore.errors import ConfigError
from tests.integrations.vllm.engine import Engine, Make, asked, prompt

pytestmark = pytest.mark.slow


def adapter(directory: Path, scale: int) -> Path:
    """A directory with the files of a LoRA."""
    directory.mkdir(exist_ok=True)
    save_file({"a": np.full(4, scale, dtype=np.float32)}, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text('{"lora_alpha": 2}')
    return directory


def image(content: str, offset: int, length: int) -> MultiModalFeatureSpec:
    """What vLLM says of an image of this hash among a prompt's tokens."""
    return MultiModalFeatureSpec(None, "image", content, PlaceholderRange(offset, length), mm_hash=content)


def test_salts_are_kept_apart(engine: Make) -> None:
    one, two, shared = engine(), engine(extra={"mirror": False}), prompt(130)
    asked(one, "salted", shared, cache_salt="theirs")
    one.settle()
    assert asked(two, "plain", shared) == 133
    assert asked(two, "other", shared, cache_salt="ours") == 133
    assert asked(two, "salted", shared, cache_salt="theirs") == 133 - 128
    two.settle()
    assert asked(engine(extra={"mirror": False}), "other", shared, cache_salt="ours") == 133 - 128


def seeing(engine: Make) -> Engine:
    """An engine as for a model that takes images; the workers' encoder is none."""
    made: Engine = engine(extra={"mirror": False})
    made.scheduler.max_num_encoder_input_tokens = 1024
    made.scheduler.encoder_cache_manager = EncoderCacheManager(1024)
    return made


def test_images_are_told_by_what_they_show_and_where(engine: Make) -> None:
    one, two, shared = seeing(engine), seeing(engine), prompt(200)
    asked(one, "cat", shared, mm_features=[image("cat", 70, 40)])
    one.settle()
    # the first block holds no image
    assert asked(two, "dog", shared, mm_features=[image("dog", 70, 40)]) == 203 - 64
    assert asked(two, "text", shared) == 203 - 64
    assert asked(two, "moved", shared, mm_features=[image("cat", 71, 40)]) == 203 - 64
    three = seeing(engine)
    assert asked(three, "cat", shared, mm_features=[image("cat", 70, 40)]) == 203 - 192


def test_a_prompt_that_comes_in_pieces_is_left_alone(engine: Make) -> None:
    one, whole = seeing(engine), prompt(227)
    for content in ("cat", "dog"):
        # vLLM takes back the token that it drew behind the first piece, which filled a block
        one.add(content, whole[:127], new=1, resumable=True)
        while content not in one.answers:
            one.step()
        one.add(content, whole[127:], new=1, resumable=True, mm_features=[image(content, 3, 60)])
        # an image of a piece is nothing that the connector is told of as it comes
        assert [feature.mm_hash for feature in one.scheduler.requests[content].mm_features] == [content]
        while len(one.answers[content]) < 2:
            one.step()
        one.abort(content)
    one.run()
    one.settle()
    assert one.stats["requests_left_alone"] == 2 and "saved_blocks" not in one.stats
    assert not one.scheduler.connector._scheduling._requests
    assert asked(seeing(engine), "cat", whole, mm_features=[image("cat", 130, 60)]) == 230


@pytest.mark.parametrize("token", [-1, 1 << 32, 1 << 64])
@pytest.mark.parametrize("role", ["kv_both", "kv_producer"])
def test_a_prompt_of_what_is_no_token_is_left_alone(engine: Make, token: int, role: str) -> None:
    one = engine(transfer={"kv_role": role})
    # the stand-in of a model could not go on from such
    one.add("a", [token, *prompt(100)])
    one.scheduler.schedule()
    assert not one.scheduler.connector._scheduling._requests
    assert one.scheduler.connector.get_kv_connector_stats().data == {"requests_left_alone": 1}


def test_adapters_are_told_by_their_files(engine: Make, tmp_path: Path) -> None:
    one, two, shared = engine(), engine(extra={"mirror": False}), prompt(130)
    for index, name in enumerate(("x", "y"), 1):
        files = adapter(tmp_path / name, index)
        asked(one, name, shared, lora_request=LoRARequest("one", index, str(files)))
    one.settle()
    assert asked(two, "plain", shared) == 133
    assert asked(two, "x", shared, lora_request=LoRARequest("one", 3, str(tmp_path / "x"))) == 133 - 128
    # one that says not which it is
    assert asked(two, "z", shared, lora_request=LoRARequest("two", 4, "some/hub-id")) == 133
    assert two.stats["requests_left_alone"] == 1


def test_an_adapter_whose_files_change_is_left_alone_where_vllm_takes_it_for_the_same(
    engine: Make, tmp_path: Path
) -> None:
    one, shared, files = engine(extra={"mirror": False}), prompt(130), adapter(tmp_path / "x", 1)
    assert asked(one, "a", shared, lora_request=LoRARequest("one", 1, str(files))) == 133
    one.settle()
    saved = one.stats["saved_blocks"]
    adapter(files, 2)
    # loaded anew under another number, or not: vLLM has the KV of before in its own cache
    for number in (1, 2):
        assert asked(one, f"b{number}", shared, lora_request=LoRARequest("one", number, str(files))) == 133 - 128
    one.settle()
    assert one.stats["requests_left_alone"] == 2 and one.stats["saved_blocks"] == saved
    two = engine(extra={"mirror": False})
    assert asked(two, "c", shared, lora_request=LoRARequest("one", 1, str(files))) == 133
    two.settle()
    # what was saved is what the first files compute
    assert asked(two, "d", shared, lora_request=LoRARequest("one", 2, str(adapter(tmp_path / "y", 1)))) == 133 - 128
    assert asked(one, "e", shared, lora_request=LoRARequest("one", 3, str(adapter(tmp_path / "z", 2)))) == 133 - 128


@pytest.mark.parametrize("revision", ["", "one"])
def test_an_override_of_the_models_configuration_is_part_of_the_name(engine: Make, revision: str) -> None:
    extra, shared = {"mirror": False, "revision": revision}, prompt(130)
    one = engine(extra=extra)
    asked(one, "a", shared)
    one.settle()
    loud = {"hf_overrides": {"rms_norm_eps": 0.1}}
    two = engine(extra=extra, model=loud)
    assert asked(two, "a", shared) == 133
    two.settle()
    assert asked(engine(extra=extra, model=loud), "a", shared) == 133 - 128
    assert asked(engine(extra=extra, model={"hf_overrides": {"rms_norm_eps": 0.2}}), "a", shared) == 133
    assert asked(engine(extra=extra), "a", shared) == 133 - 128


def test_a_function_that_changes_the_configuration_needs_a_revision(engine: Make) -> None:
    with pytest.raises(ConfigError, match="revision: --hf-overrides is a function, or holds one"):
        engine(model={"hf_overrides": lambda config: config})
    assert asked(engine(model={"hf_overrides": lambda config: config}, extra={"revision": "mine"}), "a", [1, 2, 3]) == 6
