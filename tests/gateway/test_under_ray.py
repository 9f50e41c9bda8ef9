"""`cachestore up` with a [gateway]: Serve's proxy answers in OpenAI's words, and `down` leaves nothing."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.cluster.conftest import BLOCK, Ray, read_object
from tests.cluster.test_deployment import LOOPBACK, listening
from tests.gateway.conftest import MODEL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass
class Up:
    """What `cachestore up` left running."""

    ray: Ray
    url: str

    def command(self, *words: str) -> tuple[int, str]:
        """Exit status and output of a command beside it."""
        process = self.ray.start("-m", "cachestore", *words)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out


@pytest.fixture(scope="module")
def up(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    ray = Ray(tmp_path_factory.mktemp("ray"))
    config = ray.folder / "serve.toml"
    config.write_text(
        f'[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n[service]\nport = 0\n[engine]\nmodel = "{byte_model}"\n'
        f"block_tokens = {BLOCK}\nchunk_tokens = {BLOCK}\nthreads = 1\n[cluster]\nprefill = 1\ndecode = 1\n"
        "[gateway]\nport = 0\nmax_waiting = 8\n"
    )
    try:
        process = ray.start("-m", "cachestore", "up", "--json", "--config", str(config))
        told = read_object(process)
        process.wait()
        yield Up(ray, told["gateway"])
    finally:
        ray.end()


def test_the_official_client_talks_to_it(up: Up) -> None:
    with OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": "What does a store of caches keep, and for whom?"}]
        cached = []
        for _ in range(2):
            stream = client.chat.completions.create(
                model=MODEL, messages=messages, max_tokens=8, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )  # fmt: skip
            usage = list(stream)[-1].usage
            assert usage is not None and usage.prompt_tokens_details is not None
            cached.append(usage.prompt_tokens_details.cached_tokens)
        assert not cached[0] and (cached[1] or 0) >= 32
    answer = httpx.post(f"{up.url}/v1/completions", json={"model": "another", "prompt": "x"})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def figure(up: Up, name: str) -> float:
    lines = httpx.get(f"{up.url}/metrics").text.splitlines()
    return sum(float(line.split(" ")[1]) for line in lines if line.startswith(f"cachestore_gateway_{name} "))


def test_whoever_leaves_ends_the_generation(up: Up, wait_until: Callable[..., None]) -> None:
    body = {"model": MODEL, "prompt": "x" * 40, "max_tokens": 900, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{up.url}/v1/completions", json=body, timeout=30) as answer:
        next(answer.iter_bytes())
    wait_until(lambda: figure(up, "requests_left_total") == 1)
    wait_until(lambda: not figure(up, "requests_under_way"))


def test_status_shows_everything(up: Up) -> None:
    code, out = up.command("status", "--json")
    told = json.loads(out)
    assert code == 0 and told["ok"]
    assert sorted(part["role"] for part in told["parts"]) == ["decode", "gateway", "prefill", "store"]
    assert {part["health"] for part in told["parts"]} == {"SERVING"}


def test_nothing_listens_off_loopback(up: Up) -> None:
    found = listening(up.ray.marked.pids())
    assert int(up.url.rpartition(":")[2]) in [int(address.rpartition(":")[2], 16) for address in found]
    assert [address for address in found if address.rpartition(":")[0] not in LOOPBACK] == []


def test_down_leaves_nothing(up: Up, wait_until: Callable[..., None]) -> None:
    code, out = up.command("down", "--json")
    assert code == 0 and json.loads(out) == {"stopped": 1}
    wait_until(up.ray.marked.gone)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{up.url}/health")
