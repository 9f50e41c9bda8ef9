"""A Ray cluster of somebody else's: what cannot be is refused in one line, and leaves nothing behind."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NOTHING = {"stores": 0, "applications": []}


@pytest.fixture(scope="module")
def found(ray: Any, configuration: str, next_object: Callable[[Any], Any]) -> Any:
    """What the scenario saw."""
    config = ray.folder / "cachestore.toml"
    config.write_text(configuration)
    return next_object(ray.start("tests/cluster/refusals.py", "quick", str(config)))


def test_more_gpus_than_there_are(found: Any) -> None:
    refused = found["too_many_gpus"]
    assert refused["kind"] == "Unavailable"
    for part in (
        "cluster.start_timeout = 6 s",
        "1 prefill",
        "1 decode",
        "3 GPUs",
        "the cluster has",
        "2 GPUs (2 free)",
    ):
        assert part in refused["text"]
    assert 6 <= refused["seconds"] < 25
    assert found["left_after_gpus"] == NOTHING


def test_redis_that_does_not_answer(found: Any) -> None:
    refused = found["no_redis"]
    assert refused["kind"] in ("ConfigError", "Unavailable")
    assert refused["text"].startswith("the store did not start: ") and "127.0.0.1:1" in refused["text"]
    assert "hidden" not in refused["text"] and "Traceback" not in refused["text"]
    assert found["left_after_redis"] == NOTHING


def test_embedded_redis_on_two_nodes(found: Any) -> None:
    refused = found["embedded"]
    assert refused["kind"] == "ConfigError"
    assert "2 nodes" in refused["text"] and "redis://" in refused["text"]
    assert found["left_after_embedded"] == NOTHING


@pytest.mark.parametrize("case", ["no_token", "wrong_token", "wrong_token_auto"])
def test_tokens(found: Any, case: str) -> None:
    refused = found[case]
    assert refused["kind"] == "ConfigError"
    assert "refuses our token" in refused["text"] and "RAY_AUTH_TOKEN" in refused["text"]
    assert refused["seconds"] < 10


def test_nobody_there(found: Any) -> None:
    refused = found["unreachable"]
    assert refused["kind"] == "Unavailable"
    assert "cannot reach Ray" in refused["text"] and "127.0.0.1:1" in refused["text"]
