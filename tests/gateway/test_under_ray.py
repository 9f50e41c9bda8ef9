"""`cachestore up` with a [gateway]: Serve's proxy answers in OpenAI's words, and `down` leaves nothing."""

import json
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import DefaultHttpxClient, OpenAI

from cachestore.service.auth import certificates
from cachestore.service.auth.certificates import Made
from tests.cluster.conftest import BLOCK, Ray, read_object
from tests.cluster.test_deployment import LOOPBACK, listening
from tests.gateway.conftest import MODEL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass
class Up:
    """What `cachestore up` left running."""

    ray: Ray
    url: str
    certs: Made
    temporary: Path

    @property
    def trust(self) -> ssl.SSLContext:
        """Of the gateway's certificate."""
        return ssl.create_default_context(cafile=str(self.certs.ca))

    def client(self) -> httpx.Client:
        """One that trusts it."""
        return httpx.Client(base_url=self.url, verify=self.trust, timeout=30)

    def command(self, *words: str) -> tuple[int, str]:
        """Exit status and output of a command beside it."""
        process = self.ray.start("-m", "cachestore", *words)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out


@pytest.fixture(scope="module")
def up(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    ray = Ray(tmp_path_factory.mktemp("ray"))
    certs = certificates.make(ray.folder / "certs", ["127.0.0.1"], [])
    # sockets are in it, whose paths must be short
    temporary = Path(tempfile.mkdtemp(prefix="kv-"))
    config = ray.folder / "serve.toml"
    config.write_text(
        '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n[[tiers]]\nname = "redis"\nurl = "embedded"\ncapacity = "64MiB"\n'
        f'[service]\nport = 0\n[engine]\nmodel = "{byte_model}"\n'
        f"block_tokens = {BLOCK}\nthreads = 1\n[cluster]\nprefill = 1\ndecode = 1\n"
        f'[gateway]\nport = 0\nmax_waiting = 8\ntls_cert = "{certs.cert()}"\ntls_key = "{certs.key()}"\n'
    )
    try:
        process = ray.start("-m", "cachestore", "up", "--json", "--config", str(config), TMPDIR=str(temporary))
        told = read_object(process)
        process.wait()
        yield Up(ray, told["gateway"], certs, temporary)
    finally:
        ray.end()
        shutil.rmtree(temporary)


def test_the_official_client_talks_to_it(up: Up) -> None:
    assert up.url.startswith("https://")
    with (
        DefaultHttpxClient(verify=up.trust) as trusting,
        OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0, http_client=trusting) as client,
    ):
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
    with up.client() as http:
        answer = http.post("/v1/completions", json={"model": "another", "prompt": "x"})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def figure(up: Up, name: str) -> float:
    with up.client() as http:
        lines = http.get("/metrics").text.splitlines()
    return sum(float(line.split(" ")[1]) for line in lines if line.startswith(f"cachestore_gateway_{name} "))


def test_whoever_leaves_ends_the_generation(up: Up, wait_until: Callable[..., None]) -> None:
    body = {"model": MODEL, "prompt": "x" * 40, "max_tokens": 900, "temperature": 0, "stream": True}
    with up.client() as http, http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_bytes())
    wait_until(lambda: figure(up, "requests_left_total") == 1)
    wait_until(lambda: not figure(up, "requests_under_way"))


def test_status_shows_everything(up: Up) -> None:
    code, out = up.command("status", "--json")
    told = json.loads(out)
    assert code == 0 and told["ok"]
    assert sorted(part["role"] for part in told["parts"]) == ["decode", "gateway", "prefill", "store"]
    assert {part["health"] for part in told["parts"]} == {"SERVING"}
    assert {part["role"]: part["queue"] for part in told["parts"]} == {
        "decode": 0,
        "gateway": 0,
        "prefill": 0,
        "store": None,
    }


def test_status_trusts_no_other_certificate(up: Up) -> None:
    note = up.ray.folder / "state" / "cachestore" / "up.json"
    before = note.read_text()
    other = certificates.make(up.ray.folder / "others", ["127.0.0.1"], [])
    note.write_text(before.replace(str(up.certs.cert()), str(other.cert())))
    code, out = up.command("status", "--json")
    note.write_text(before)
    health = {part["role"]: part["health"] for part in json.loads(out)["parts"]}
    assert code == 1 and health["gateway"] == "untrusted" and health["decode"] == "SERVING"


def test_nothing_listens_off_loopback(up: Up) -> None:
    found = listening(up.ray.marked.pids())
    assert int(up.url.rpartition(":")[2]) in [int(address.rpartition(":")[2], 16) for address in found]
    assert [address for address in found if address.rpartition(":")[0] not in LOOPBACK] == []


def test_down_leaves_nothing_and_cuts_nobody_off(up: Up, wait_until: Callable[..., None]) -> None:
    body = {"model": MODEL, "prompt": "y" * 40, "max_tokens": 900, "temperature": 0, "stream": True}
    with up.client() as http, http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        down = up.ray.start("-m", "cachestore", "down", "--json")
        *_, last = [line for line in lines if line]
    assert last == "data: [DONE]"
    out, _ = down.communicate(timeout=120)
    assert down.returncode == 0 and json.loads(out) == {"stopped": 1}
    wait_until(up.ray.marked.gone)
    with pytest.raises(httpx.ConnectError), up.client() as http:
        http.get("/health")
    state = up.ray.folder / "state"
    assert [path for path in state.rglob("*") if path.is_file()] == [], "no note is left"
    assert [path for path in up.temporary.iterdir() if path.name != "ray"] == [], "only Ray's own logs are"
