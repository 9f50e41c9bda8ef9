"""Settings say which key is wrong, in the words of their section."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec
from decode_worker.__main__ import main
from decode_worker.server import DecodeServer
from decode_worker.settings import DecodeSettings
from prefill_worker import process
from prefill_worker.connecting import OwnPages
from prefill_worker.server import PrefillServer
from prefill_worker.settings import PrefillSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("cls", "section"), [(PrefillSettings, "prefill_worker"), (DecodeSettings, "decode_worker")])
@pytest.mark.parametrize(
    ("key", "value"),
    [("port", 70000), ("store_timeout", 0), ("longest_call", 0), ("codec", "int8"), ("codec", "lz5")],
)
def test_what_cannot_work(cls: Any, section: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key}"):
        build(cls, {key: value}, section)


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        (PrefillSettings, "lease", 0),
        (PrefillSettings, "gpu_pages", "1KiB"),
        (DecodeSettings, "prefill_begin", "0s"),
        (DecodeSettings, "silence", 0),
        (DecodeSettings, "prefill_attempts", -1),
        (DecodeSettings, "local_prefill_tokens", -1),
        (DecodeSettings, "rest", 0),
    ],
)
def test_what_only_one_of_them_has(cls: Any, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        build(cls, {key: value}, "section")


@pytest.mark.parametrize(("cls", "section"), [(PrefillServer, "prefill_worker"), (DecodeServer, "decode_worker")])
def test_servers_take_the_whole_configuration(cls: Any, section: str, tiny_model: Path) -> None:
    tables = {"engine": {"model": str(tiny_model)}, "tiers": [], "service": {"port": 1}}
    server = cls(tables, store="127.0.0.1:9", name="n")
    assert server.role == section.split("_")[0] and server.queue == 0
    with pytest.raises(Unavailable):
        _ = server.address
    with pytest.raises(ConfigError, match=f"{section}.prot"):
        cls({**tables, section: {"prot": 1}}, store="127.0.0.1:9", name="n")
    with pytest.raises(ConfigError, match=r"batch\.pages"):
        cls({**tables, "batch": {"pages": -1}}, store="127.0.0.1:9", name="n")
    with pytest.raises(ConfigError, match="codec"):
        cls({**tables, section: {"codec": "nothing"}}, store="127.0.0.1:9", name="n")


def test_a_server_opens_without_a_store_and_closes_twice(tiny_model: Path) -> None:
    tables = {"engine": {"model": str(tiny_model)}}
    server = PrefillServer(tables, store="127.0.0.1:9", name="n")
    with server:
        port = int(server.address.rpartition(":")[2])
        taken = DecodeServer({**tables, "decode_worker": {"port": port}}, store="127.0.0.1:9", name="n")
        with pytest.raises(ConfigError, match=r"decode_worker\.port"):
            taken.open()
        taken.close()
    server.close()


def test_however_many_pages_there_are_a_store_takes_them(serve: Callable[..., Any]) -> None:
    """It takes some 200 slabs of one namespace, from all workers of its node together."""
    capacity = 24 << 30
    own, (keys, blocks) = OwnPages("raw", "cpu", capacity), random_prompt(small_spec(), 2)
    own.open()
    try:
        with own.connect(serve().address) as store:
            put_blocks(store, keys.fingerprint, blocks)
            lines = Path("/proc/self/maps").read_text().splitlines()
            spans = [line.split()[0].split("-") for line in lines if "memfd:cachestore-gpu" in line]
            assert capacity <= 24 * max(int(end, 16) - int(start, 16) for start, end in spans)
    finally:
        own.close()


def test_clients_and_settings_do_not_need_the_model_library() -> None:
    modules = "decode_worker.client, decode_worker.settings, prefill_worker.client, prefill_worker.settings"
    program = f"import sys, {modules}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0


def test_a_command_says_what_is_wrong_with_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what it does to its process: a process of its own would take the library of models in first
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(process.signal, "signal", lambda number, handler: None)
    config = tmp_path / "config.toml"
    config.write_text('[engine]\nmodel = "nowhere"\n[decode_worker]\nhost = "0.0.0.0"\n')
    command = typer.Typer()
    command.command()(main)
    ended = CliRunner().invoke(command, ["--config", str(config), "--store", "127.0.0.1:9"])
    assert ended.exit_code == 2
    assert "decode_worker.host" in ended.stderr and "Traceback" not in ended.output
