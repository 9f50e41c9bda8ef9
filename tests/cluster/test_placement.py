"""Workers where Ray says there are GPUs; and a deployment that is asked for twice, otherwise, and wrongly."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def found(ray: Any, configuration: str, next_object: Callable[[Any], Any]) -> Any:
    """What the scenario saw."""
    config = ray.folder / "cachestore.toml"
    config.write_text(configuration)
    return next_object(ray.start("tests/cluster/refusals.py", "whole", str(config)))


def test_each_worker_gets_a_gpu_of_its_own(found: Any) -> None:
    assert found["placed"]["gpus_left"] == 0
    assert sorted(found["placed"]["visible"]) == ["decode", "prefill"]
    assert sorted(found["placed"]["visible"].values()) == ["0", "1"]


def test_up_twice_is_up(found: Any) -> None:
    assert found["again"] is True


def test_up_with_another_configuration_is_refused(found: Any) -> None:
    assert found["other_configuration"]["kind"] == "ConfigError"
    assert "cachestore down" in found["other_configuration"]["text"]
    assert found["left_after_other"] == 1, "what was up stays up"


def test_down(found: Any) -> None:
    assert found["stopped"] == 1
    assert found["left_after_down"] == {"stores": 0, "applications": []}


def test_wrong_model(found: Any) -> None:
    refused = found["wrong_model"]
    assert refused["kind"] == "ConfigError"
    assert refused["text"].startswith("the prefill workers did not start: engine.model: looked for '/nowhere/at/all'")
    assert len(refused["text"].splitlines()) == 1
    assert found["left_after_model"] == {"stores": 0, "applications": []}
