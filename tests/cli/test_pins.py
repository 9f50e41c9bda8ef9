"""`pin`, `unpin`, `pins` and `health` against a store that runs."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.hashing import Chain
from cachestore.service.auth.certificates import make
from cachestore.service.auth.tokens import digest_of, new_token
from cachestore.service.client import RemoteStore
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec


@pytest.fixture
def stored(store: Any) -> Chain:
    """Three blocks that are stored, of a prompt of four."""
    keys, blocks = random_prompt(small_spec(), 4)
    with RemoteStore(store.address) as remote:
        remote.clear()
        put_blocks(remote, keys.fingerprint, blocks[:3])
    return keys


def named(keys: Chain) -> tuple[str, ...]:
    return "--keys", ",".join(key.hex() for key in keys.keys), "--fingerprint", keys.fingerprint.hex()


def test_pins_are_made_listed_and_ended(store: Any, stored: Chain, command: Callable[..., Any]) -> None:
    at = ("--address", store.address)
    made = command("pin", *named(stored), "--ttl", "120", "--json", *at).object
    assert (made["blocks"], made["pinned"], made["ttl"]) == (4, 3, 120.0) and made["quota_left_bytes"] > 0
    listed = command("pins", "--json", *at).object
    assert {pin["key"] for pin in listed["pins"]} == {key.hex() for key in stored.keys[:3]}
    assert all(0 < pin["ttl"] <= 120 for pin in listed["pins"])
    assert listed["bytes"] == sum(pin["bytes"] for pin in listed["pins"]) > 0
    shown = command("pins", *at)
    assert shown.status == 0 and shown.out.startswith("3 pins") and stored.keys[0].hex() in shown.out
    assert command("unpin", *named(stored), *at).out == "unpinned 3 of 4 blocks\n"
    assert command("pins", "--json", *at).object == {"pins": [], "bytes": 0}
    assert command("unpin", *named(stored), "--json", *at).object == {"blocks": 4, "unpinned": 0}


def test_a_pin_says_how_long_and_what_is_left(store: Any, stored: Chain, command: Callable[..., Any]) -> None:
    said = command("pin", *named(stored), "--ttl", "90", "--address", store.address)
    assert said.out.startswith("pinned 3 of 4 blocks for 0:01:30; ") and "of the quota are left" in said.out


@pytest.mark.parametrize("arguments", [(), ("a text", "--keys", "00"), ("--keys", "zz"), ("--keys", "00")])
def test_blocks_are_named_in_one_way(command: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    for name in ("pin", "unpin"):
        assert "--keys" in command(name, *arguments).refused(1)


@pytest.mark.parametrize("ttl", ["-1", "1e12", "nan"])
def test_a_time_that_cannot_be_meant(command: Callable[..., Any], ttl: str) -> None:
    line = command("pin", "--keys", "00" * 32, "--fingerprint", "00" * 32, "--ttl", ttl).refused(1)
    assert "--ttl" in line


def test_health(store: Any, command: Callable[..., Any], eventually: Callable[[Callable[[], object]], None]) -> None:
    names = {"", "cachestore.v1.CacheStore", "tier/cpu", "tier/redis", "path/stream", "path/shared", "path/bulk"}
    at = ("--address", store.address)
    eventually(lambda: command("health", "--all", *at).status == 0)
    assert command("health", "--json", *at).object == {"ok": True, "statuses": {"": "SERVING"}}
    told = command("health", "--all", "--json", *at).object
    assert told == {"ok": True, "statuses": dict.fromkeys(names, "SERVING")}
    shown = command("health", "--all", *at)
    assert shown.status == 0 and "tier/redis" in shown.out and "the store" in shown.out


def test_health_of_a_store_that_is_not_there(command: Callable[..., Any]) -> None:
    assert "127.0.0.1:1" in command("health", "-a", "127.0.0.1:1").refused(1)


def test_health_asks_as_other_commands_do(
    serve: Callable[..., Any], command: Callable[..., Any], eventually: Callable[[Callable[[], object]], None],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """TLS that does not fit is said, and no outage; the whole is told to anybody, the parts to who is known."""
    made, token = make(tmp_path / "certs", ["127.0.0.1"], []), new_token()
    text = (
        '[[tiers]]\nname = "cpu"\ncapacity = "16MiB"\n'
        f'[service]\ntls_cert = "{made.cert()}"\ntls_key = "{made.key()}"\n'
        f'[[service.identities]]\nname = "alice"\nrole = "reader"\ntoken = "sha256:{digest_of(token).hex()}"\n'
    )
    at = ("--address", serve(text).address)
    assert "it speaks TLS: name the authority" in command("health", *at).refused(1)
    monkeypatch.setenv("CACHESTORE_CA", str(made.ca))
    assert command("health", *at).status == 0
    assert "CACHESTORE_TOKEN" in command("health", "--all", *at).refused(1)
    monkeypatch.setenv("CACHESTORE_TOKEN", token)
    eventually(lambda: command("health", "--all", *at).status == 0)


def test_a_tier_that_is_down_fails_only_whoever_asks_for_all(
    serve: Callable[..., Any], command: Callable[..., Any], eventually: Callable[[Callable[[], object]], None]
) -> None:
    text = '[[tiers]]\nname = "cpu"\ncapacity = "16MiB"\n[[tiers]]\nname = "redis"\nurl = "embedded"\n'
    one = serve(text + "[service]\nprobe_every = 0.1\n")
    redis = [pid for pid in one.children() if b"redis-server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    at = ("--address", one.address)
    eventually(lambda: command("health", "--all", *at).status == 0)
    # frozen, not gone: whoever only asks whether it can be reached would not see it
    for pid in redis:
        os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: command("health", "--all", *at).status == 1)
        assert command("health", *at).status == 0
        told = command("health", "--all", "--json", *at).object
        assert not told["ok"] and told["statuses"][""] == "SERVING"
        assert told["statuses"]["tier/redis"] == "NOT_SERVING"
        assert told["statuses"]["tier/cpu"] == "SERVING"
    finally:
        for pid in redis:
            os.kill(pid, signal.SIGCONT)
    eventually(lambda: command("health", "--all", *at).status == 0)
