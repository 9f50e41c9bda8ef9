"""`stats`, `lookup` and `clear` against a store that runs."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.block import Block, BlockSpec
from cachestore.engine.model import model_spec, tokenizer
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.store.base import put_blocks

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "examples" / "needle" / "model"
TEXT = "The code of station Lima is 4831. " * 40


def put(address: str, spec: BlockSpec, keys: Chain, blocks: int) -> None:
    random = np.random.default_rng(0)
    made = [
        Block(key, spec.block_tokens, spec.planes(), [
            random.integers(0, 256, plane.raw_bytes, dtype=np.uint8) for plane in spec.planes()
        ])
        for key in keys.keys[:blocks]
    ]  # fmt: skip
    with RemoteStore(address) as store:
        put_blocks(store, keys.fingerprint, made)


@pytest.fixture(scope="module")
def engine() -> EngineSettings:
    return EngineSettings(str(MODEL))


@pytest.fixture
def stored(store: Any, engine: EngineSettings) -> Chain:
    """A prompt of which two blocks are stored."""
    spec = model_spec(engine)
    keys = chain(spec, tokenizer(engine).encode(TEXT))
    assert len(keys) > 2
    with RemoteStore(store.address) as remote:
        remote.clear()
    put(store.address, spec, keys, 2)
    return keys


@pytest.fixture
def model_config(config: Callable[[str], str]) -> str:
    return config(f'[engine]\nmodel = "{MODEL}"\n')


def test_lookup_in_all_three_ways(
    store: Any, stored: Chain, engine: EngineSettings, command: Callable[..., Any], model_config: str
) -> None:
    at = ("--address", store.address)
    tokens = ",".join(map(str, tokenizer(engine).encode(TEXT)))
    keys = ",".join(key.hex() for key in stored.keys)
    by_text = command("lookup", TEXT, "--config", model_config, "--json", *at).object
    assert by_text["blocks"] == len(stored) and by_text["ready"] == 2
    assert [run["tier"] for run in by_text["runs"]] == ["cpu"]
    assert command("lookup", "--tokens", tokens, "--config", model_config, "--json", *at).object == by_text
    by_keys = command("lookup", "--keys", keys, "--fingerprint", stored.fingerprint.hex(), *at)
    assert by_keys.out == f"2 of {len(stored)} blocks are ready: 2 in cpu on local\n"


def test_stats(store: Any, stored: Chain, command: Callable[..., Any]) -> None:
    told = command("stats", "--address", store.address, "--json").object
    assert told["sums_hold"] == {"reads": True, "puts": True, "tiers": True}
    counted = {figure["name"]: figure["value"] for figure in told["figures"]}
    assert counted["put_stored"] >= 2
    bounds: dict[str, list[int]] = {}
    for figure in told["figures"]:
        if figure["name"] == "time_bucket":
            bounds.setdefault(figure["labels"]["op"], []).append(int(figure["labels"]["le"]))
    assert len(bounds["put"]) > 3 and all(of == sorted(of) for of in bounds.values())
    shown = command("stats", "--address", store.address)
    assert shown.status == 0 and "sums hold" in shown.out and "DO NOT" not in shown.out and "tier_bytes" in shown.out
    assert "transport_put_bytes" in shown.out and counted["transport_put_blocks"] >= 2


def test_clear(
    store: Any, stored: Chain, command: Callable[..., Any], eventually: Callable[[Callable[[], object]], None]
) -> None:
    at = ("--address", store.address)

    def copied() -> bool:
        with RemoteStore(store.address) as remote:
            figures = remote.stats()
        return total(figures, "tier_added", tier="redis") == total(figures, "tier_added", tier="cpu")

    eventually(copied)
    assert command("clear", "--tier", "cpu", "--json", *at).object == {"removed": 2}
    with RemoteStore(store.address) as remote:
        assert [run.tier for run in remote.lookup(stored).runs] == ["redis"]
    assert "blocks from all tiers" in command("clear", *at).out
    with RemoteStore(store.address) as remote:
        assert remote.lookup(stored).ready == 0


def test_a_pipe_that_closes_early(store: Any) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cachestore stats --address {store.address} | head -1",
        shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == "" and done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["stats"], ["clear"], ["lookup", "--keys", "00" * 32, "--fingerprint", "00" * 32]]
)
def test_nobody_answers(command: Callable[..., Any], arguments: list[str]) -> None:
    started = time.monotonic()
    line = command(*arguments, "--address", "127.0.0.1:1", "--timeout", "3").refused(1)
    assert "127.0.0.1:1" in line
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["lookup"], 1, "give exactly one of"),
        (["lookup", ""], 1, "give exactly one of"),
        (["lookup", "a text", "--tokens", "1"], 1, "give exactly one of"),
        (["lookup", "a text"], 2, "[engine]"),
        (["lookup", "--keys", "00" * 32], 1, "--keys needs --fingerprint"),
        (["lookup", "--keys", "00" * 31, "--fingerprint", "00" * 32], 1, "32"),
        (["lookup", "--keys", "00" * 32, "--fingerprint", "00"], 1, "--fingerprint must be 64 hex digits (32 bytes)"),
        (["lookup", "--keys", "00" * 32, "--fingerprint", "zz"], 1, "--fingerprint must be 64 hex digits (32 bytes)"),
        (
            ["lookup", "--keys", "xyz", "--fingerprint", "00" * 32],
            1,
            "each of --keys must be 64 hex digits (32 bytes), got 'xyz'",
        ),
        (["clear", "--tier", "tape"], 1, "tape"),
        (["stats", "--timeout", "0"], 1, "timeout"),
        (["stats", "--timeout", "-1"], 1, "timeout"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_arguments(store: Any, command: Callable[..., Any], arguments: list[str], status: int, said: str) -> None:
    assert said in command(*arguments, "--address", store.address).refused(status)


BLOCKS = ("--keys", "00" * 32, "--fingerprint", "00" * 32)


@pytest.mark.parametrize("address", ["", " ", "127.0.0.1", "127.0.0.1:72956", "http://127.0.0.1:1", "unix:"])
@pytest.mark.parametrize(
    "arguments",
    [["stats"], ["clear"], ["pins"], ["health"], ["lookup", *BLOCKS], ["pin", *BLOCKS], ["unpin", *BLOCKS]],
    ids=lambda arguments: arguments[0],
)
def test_an_address_that_is_none(command: Callable[..., Any], arguments: list[str], address: str) -> None:
    line = command(*arguments, "--address", address).refused(2)
    assert f"'{address}' is no address" in line and "127.0.0.1:7420" in line


@pytest.mark.parametrize("arguments", [["stats"], ["health"], ["pin", *BLOCKS]], ids=lambda arguments: arguments[0])
def test_an_authority_that_is_none(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]
) -> None:
    """It is no outage of the store."""
    file = tmp_path / "ca.crt"
    monkeypatch.setenv("CACHESTORE_CA", str(file))
    for _ in ("it is not there", "it is no certificate"):
        line = command(*arguments, "--address", "127.0.0.1:1").refused(2)
        assert "CACHESTORE_CA" in line and str(file) in line
        file.write_text("no certificate")
        file.chmod(0o644)


def test_what_names_blocks_is_shown(command: Callable[..., Any]) -> None:
    for name in ("lookup", "pin", "unpin"):
        shown = command(name, "--help")
        assert shown.status == 0
        for word in ("--tokens", "--keys", "--fingerprint", "--config", "--address", "--timeout", "--json", "[text]"):
            assert word in shown.out


@pytest.mark.parametrize("tokens", ["1,two", "-1,5", "99999999999", ","])
def test_tokens_that_cannot_be(store: Any, command: Callable[..., Any], model_config: str, tokens: str) -> None:
    line = command("lookup", "--tokens", tokens, "--config", model_config, "--address", store.address).refused(1)
    assert "tokens" in line


def test_model_that_is_not_there(store: Any, command: Callable[..., Any], config: Callable[[str], str]) -> None:
    where = config('[engine]\nmodel = "/nowhere/at/all"\n')
    line = command("lookup", "a text", "--config", where, "--address", store.address).refused(2)
    assert "engine.model" in line and "/nowhere/at/all" in line
