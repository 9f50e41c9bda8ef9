"""`ray job submit` with a working directory: what runs there finds the configuration in it, and its stores stay."""

import json
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
RAY = str(Path(sys.executable).with_name("ray"))
STORES_ALONE = """
[cluster]
address = "auto"
prefill = 0
decode = 0
[service]
port = 0
[[tiers]]
name = "cpu"
capacity = "16MiB"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def said(process: Any) -> str:
    """What a process printed; it has to end well."""
    text: str = process.stdout.read()
    assert process.wait() == 0, text
    return text


def test_jobs_bring_stores_up_and_down_from_their_working_directory(
    ray: Any, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    (tmp_path / "stores.toml").write_text(STORES_ALONE)
    control, dashboard, agent = free_port(), free_port(), free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    # jobs are told where Ray is, and find the programs of the environment that Ray was started from
    token["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    head = (
        "start", "--head", f"--port={control}", "--node-ip-address=127.0.0.1", "--include-dashboard=true",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", "--num-cpus=2", "--object-store-memory=80000000",
        f"--temp-dir={ray.folder / 'ray'}",
    )  # fmt: skip
    said(ray.start(RAY, *head, **token))

    def submit(*command: str) -> Any:
        given = ("job", "submit", f"--address=http://127.0.0.1:{dashboard}", f"--working-dir={tmp_path}", "--")
        return ray.start(RAY, *given, *command, **token)

    def job(*command: str) -> dict[str, Any]:
        """The object that a job prints."""
        text = said(submit(*command))
        assert "succeeded" in text, text
        found: dict[str, Any] = json.loads(text[text.index("\n{") : text.index("\n}") + 2])
        return found

    # whoever takes jobs begins a while after the head says that it runs
    wait_until(lambda: submit("true").wait() == 0, 60.0)
    stores = job("cachestore", "up", "--config", "stores.toml", "--json")["stores"]
    assert len(stores) == 1
    (address,) = stores.values()
    told = re.search("ask it with (.+), end with (.+)", said(submit("cachestore", "up", "--config", "stores.toml")))
    assert told is not None
    ask, end = map(shlex.split, told.groups())
    assert ask == ["cachestore", "stats", "--address", address]
    assert job(*ask, "--json")
    assert len(ray.marked.pids("ray::StoreActor")) == 1
    assert job(*end, "--json") == {"stopped": 1}
    wait_until(lambda: not ray.marked.pids("ray::StoreActor"))
