"""`cachestore doctor`."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore import golden

ALL = ["packages", "golden vectors", "shared memory", "port", "round trip: cpu", "round trip: redis"]


def test_this_installation(command: Callable[..., Any]) -> None:
    done = command("doctor", "--json")
    assert done.status == 0, done.out
    assert done.object["ok"] is True
    assert [check["name"] for check in done.object["checks"] if check["ok"]] == ALL
    shown = command("doctor")
    assert shown.status == 0 and "FAILED" not in shown.out and shown.out.count(" ok ") == len(ALL)


def test_two_stores_that_agree(command: Callable[..., Any], serve: Callable[..., Any]) -> None:
    first, second = serve().address, serve().address
    done = command("doctor", first, second, "--json")
    assert done.status == 0, done.out
    assert [check["name"] for check in done.object["checks"]] == [
        *ALL, f"round trip: {first}", f"round trip: {second}", "agreement",
    ]  # fmt: skip
    assert done.object["checks"][-1]["detail"].startswith("same keys, same bytes")


def test_a_store_that_does_not_answer(command: Callable[..., Any], store: Any) -> None:
    done = command("doctor", store.address, "127.0.0.1:1", "--json")
    assert done.status == 1 and done.err == ""
    failed = {check["name"]: check["detail"] for check in done.object["checks"] if not check["ok"]}
    assert sorted(failed) == ["agreement", "round trip: 127.0.0.1:1"]
    assert all("127.0.0.1:1" in detail for detail in failed.values())
    shown = command("doctor", "127.0.0.1:1")
    assert shown.status == 1 and "FAILED" in shown.out and "Traceback" not in shown.out + shown.err


def test_redis_that_does_not_answer(command: Callable[..., Any], config: Callable[[str], str], password: str) -> None:
    given = config(
        '[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n'
        f'[[tiers]]\nname = "redis"\nurl = "redis://:{password}@127.0.0.1:1"\n'
    )
    done = command("doctor", "--json", "--config", given)
    assert done.status == 1
    failed = [check for check in done.object["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == ["round trip: redis"]
    assert "127.0.0.1:1" in failed[0]["detail"] and password not in done.out


def test_a_foreign_server(command: Callable[..., Any], redis_server: Callable[..., Any], password: str) -> None:
    server = redis_server(tcp=True, password=password)
    done = command("doctor", f"127.0.0.1:{server.port}", "--json")
    assert done.status == 1 and password not in done.out
    assert [check["name"] for check in done.object["checks"] if not check["ok"]] == [
        f"round trip: 127.0.0.1:{server.port}"
    ]


def test_wrong_vectors_are_named(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    changed = golden.Vector("fingerprint", lambda: b"\x00", "01")
    monkeypatch.setattr(golden, "VECTORS", (changed, *golden.VECTORS[1:]))
    done = command("doctor", "--json")
    assert done.status == 1
    (failed,) = [check for check in done.object["checks"] if not check["ok"]]
    assert failed["name"] == "golden vectors" and "fingerprint" in failed["detail"]


def test_an_address_that_is_none(command: Callable[..., Any]) -> None:
    """It is said before anything is tried."""
    assert "'http://a:1' is no address" in command("doctor", "127.0.0.1:1", "http://a:1").refused(2)
