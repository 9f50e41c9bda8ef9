"""`cachestore nodes`, `drain`, `rebalance` and `doctor --cluster`, against real stores."""

import contextlib
import signal
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from cachestore.cluster.host import StoreHost
from cachestore.cluster.runtime import OUTAGE, outage
from cachestore.service.client import RemoteStore
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec
from tests.cluster.peer_nodes import fake
from tests.redis_servers.server import RedisServer, running

KEYS, BLOCKS = random_prompt(small_spec(), 4)
OTHERS, MORE = random_prompt(small_spec(), 4, seed=2)
NODES = ("one", "two", "three")


class At(NamedTuple):
    """A store of this process, and where it is."""

    address: str
    host: StoreHost


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running() as start:
        yield start()


def configured(redis: RedisServer, name: str, more: str = "") -> str:
    return (
        f'[store]\nnode = "{name}"\n{more}'
        f'[[tiers]]\nname = "cpu"\ncapacity = "64MiB"\n[service]\nport = 0\ndrain = 0.1\n'
        f'[directory]\nname = "redis"\nheartbeat = "100ms"\nttl = "10s"\nconnect_timeout = "2s"\ntimeout = "2s"\n'
        f'[directory.server]\nurl = "{redis.url}"\n'
    )


@pytest.fixture(scope="module")
def cluster(redis: RedisServer) -> Iterator[dict[str, Any]]:
    """Three nodes, in this process: others take seconds to start."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name in NODES:
            host = StoreHost(tomllib.loads(configured(redis, name)), name)
            stack.callback(host.close)
            found[name] = At(host.address(), host)
        yield found


@pytest.fixture
def known(cluster: dict[str, Any], command: Callable[..., Any], eventually: Callable[..., None]) -> dict[str, Any]:
    """The same, once all know each other."""

    def names() -> list[str]:
        said = command("nodes", "--json", "--address", cluster["one"].address).object["nodes"]
        return [node["node"] for node in said if node["state"] == "serving"]

    eventually(lambda: names() == sorted(NODES))
    return cluster


def test_nodes_are_shown_from_any_of_them(command: Callable[..., Any], known: dict[str, Any]) -> None:
    with RemoteStore(known["two"].address) as store:
        put_blocks(store, KEYS.fingerprint, BLOCKS)
    for name in NODES:
        done = command("nodes", "--json", "--address", known[name].address)
        assert done.status == 0 and done.object["ok"] is True
        said = {node["node"]: node for node in done.object["nodes"]}
        assert {at: node["address"] for at, node in said.items()} == {at: known[at].address for at in NODES}
        assert said["two"]["tiers"]["cpu"]["blocks"] == 4 and said["one"]["tiers"]["cpu"]["blocks"] == 0
        assert all(len(node["incarnation"]) == 16 and node["directory"] for node in said.values())
    shown = command("nodes", "--address", known["one"].address)
    assert shown.status == 0 and all(name in shown.out for name in NODES)


def test_doctor_looks_at_the_whole_cluster(command: Callable[..., Any], known: dict[str, Any]) -> None:
    done = command("doctor", "--cluster", known["one"].address, "--json")
    assert done.status == 0, done.out
    names = [check["name"] for check in done.object["checks"]]
    assert names == [
        "nodes answer", "nodes know each other", "nodes reach each other", "wire", "clocks", "configuration", "tiers",
        "specs",
        *(f"directory: {name}" for name in sorted(NODES)), f"round trip: {known['one'].address}",
    ]  # fmt: skip


def test_doctor_names_who_refuses_whom(
    command: Callable[..., Any], known: dict[str, Any], monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    with monkeypatch.context() as patch:
        # it takes none of its lives for its own, as one that stands at another's address
        patch.setattr(known["two"].host._server.guard._authority, "_is_life", lambda incarnation: False)
        done = command("doctor", "--cluster", known["one"].address, "--json")
    said = {check["name"]: check for check in done.object["checks"]}["nodes reach each other"]
    assert done.status == 1 and not said["ok"]
    for name in ("one", "three"):
        assert f"{name} does not reach two at {known['two'].address}: " in said["detail"]
    assert "does not reach one" not in said["detail"] and "not the node that is meant" in said["detail"]
    eventually(lambda: command("doctor", "--cluster", known["one"].address).status == 0)


def test_a_node_that_tells_the_address_of_another_does_not_pass_for_it(
    command: Callable[..., Any], known: dict[str, Any], redis: RedisServer, eventually: Callable[..., None]
) -> None:
    at = ("--address", known["one"].address, "--json")
    with fake(redis, known["one"].address, bytes(32)):
        eventually(lambda: command("nodes", *at).status == 1)
        (found,) = (each for each in command("nodes", *at).object["nodes"] if each["node"] == "fake")
        assert "one answers there" in str(found)
    eventually(lambda: command("nodes", *at).status == 0)


def test_doctor_says_that_two_nodes_have_one_name(
    command: Callable[..., Any], known: dict[str, Any], redis: RedisServer, eventually: Callable[..., None]
) -> None:
    def said() -> dict[str, Any]:
        done = command("doctor", "--cluster", known["one"].address, "--json")
        return {check["name"]: check for check in done.object["checks"]}["nodes know each other"]

    twin = StoreHost(tomllib.loads(configured(redis, "two")), "two")
    try:
        eventually(lambda: not said()["ok"])
        at = sorted((known["two"].address, twin.address()))
        assert f"two nodes are called two (at {at[0]} and {at[1]})" in said()["detail"]
        assert "store.node" in said()["detail"]
        # both are shown
        shown = command("nodes", "--json", "--address", known["one"].address).object["nodes"]
        assert sorted(node["address"] for node in shown if node["node"] == "two") == at
    finally:
        twin.close()
    eventually(lambda: said()["ok"])


def test_doctor_advises_to_bear_a_longer_outage_of_rays_control_plane(
    command: Callable[..., Any], known: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> dict[str, Any]:
        done = command("doctor", "--cluster", known["one"].address, "--json")
        assert done.status == 0, done.out
        (found,) = (check for check in done.object["checks"] if check["name"] == "control plane")
        return dict(found)

    monkeypatch.delenv(OUTAGE, raising=False)
    for name in NODES[1:]:
        monkeypatch.setattr(known[name].host.operator, "outage", outage())
    advice = said()
    assert advice["advice"] and f"set {OUTAGE}=600" in advice["detail"]
    assert "three, two end when" in advice["detail"] and "60 s" in advice["detail"]
    monkeypatch.setenv(OUTAGE, "600")
    for name in NODES[1:]:
        monkeypatch.setattr(known[name].host.operator, "outage", outage())
    assert not said()["advice"] and "600 s" in said()["detail"]


def test_what_cannot_be_meant(command: Callable[..., Any], known: dict[str, Any]) -> None:
    at = ("--address", known["one"].address)
    assert "'four' is no node of this cluster; there are one, three, two" in command("drain", "four", *at).refused(1)
    assert "may be one of several" in command("drain", "t", *at).refused(1)
    assert "--deadline must be" in command("drain", "two", "--deadline", "0", *at).refused(1)
    assert "leave --dead out" in command("drain", "two", "--dead", *at).refused(1)
    assert "127.0.0.1:1" in command("nodes", "--address", "127.0.0.1:1").refused(1)
    alone = command("rebalance", "--json", *at)
    assert alone.status == 0


@pytest.mark.parametrize("said", ["fake", "127.0.0.1:9"])
def test_a_dead_node_is_forgotten_by_its_name_or_its_address(
    command: Callable[..., Any], known: dict[str, Any], redis: RedisServer, eventually: Callable[..., None], said: str
) -> None:
    at = ("--address", known["one"].address)
    # nobody listens there
    with fake(redis, "127.0.0.1:9", bytes(32)):
        eventually(lambda: "fake" in command("nodes", *at).out)
        assert "if it is dead: cachestore drain fake --dead" in command("drain", said, *at).refused(1)
        refused = command("drain", known["two"].address, "--dead", *at).refused(1)
        assert f"two answers at {known['two'].address}" in refused and "leave --dead out" in refused
        refused = command("drain", "fak", "--dead", *at).refused(1)
        assert "knows of no 'fak'; there are fake, one, three, two" in refused
        assert "fake" in command("nodes", *at).out
        assert command("drain", said, "--dead", "--json", *at).object == {"node": "fake", "forgotten": True}
        assert "fake" not in command("nodes", *at).out
        refused = command("drain", said, "--dead", *at).refused(1)
        assert f"knows of no '{said}'; there are one, three, two" in refused


@pytest.mark.slow
def test_doctor_names_what_does_not_fit(
    command: Callable[..., Any], known: dict[str, Any], redis: RedisServer, serve: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:  # fmt: skip
    odd = serve(configured(redis, "odd", 'quotas = { default = "32MiB" }\n'))
    try:
        eventually(lambda: "odd" in command("nodes", "--address", known["one"].address).out)
        done = command("doctor", "--cluster", known["one"].address, "--json")
        failed = {check["name"]: check["detail"] for check in done.object["checks"] if not check["ok"]}
        assert done.status == 1 and list(failed) == ["configuration"], done.out
        assert "quotas differ between" in failed["configuration"] and "odd" in failed["configuration"]
    finally:
        odd.process.send_signal(signal.SIGSTOP)
    try:
        # one that hangs is named, and holds nobody up
        done = command("doctor", "--cluster", known["one"].address, "--json", "--timeout", "1")
        failed = {check["name"]: check["detail"] for check in done.object["checks"] if not check["ok"]}
        assert done.status == 1 and failed["nodes answer"].startswith(f"odd at {odd.address}: ")
        listed = command("nodes", "--address", known["one"].address, "--timeout", "1")
        assert listed.status == 1 and "no answer" in listed.out
        refused = command("drain", "odd", "--address", known["one"].address, "--timeout", "1").refused(1)
        assert "does not answer" in refused and "cachestore drain odd --dead" in refused
    finally:
        odd.end(signal.SIGKILL)
    gone = command("drain", "odd", "--dead", "--json", "--address", known["one"].address)
    assert gone.object == {"node": "odd", "forgotten": True}
    eventually(lambda: "odd" not in command("nodes", "--address", known["one"].address).out)


@pytest.mark.slow
def test_a_drained_node_ends_and_the_others_have_what_it_had(
    command: Callable[..., Any], known: dict[str, Any], redis: RedisServer, serve: Callable[..., Any],
    eventually: Callable[..., None],
) -> None:  # fmt: skip
    leaving = serve(configured(redis, "leaving"))
    with RemoteStore(leaving.address) as store:
        put_blocks(store, OTHERS.fingerprint, MORE)
        with store.read(OTHERS) as reading:
            assert len(list(reading)) == 4
    eventually(lambda: "leaving" in command("nodes", "--address", known["one"].address).out)
    done = command("drain", "leav", "--json", "--address", known["one"].address)
    assert done.status == 0, done.err
    said = done.object
    assert (said["node"], said["state"], said["hot_moved"]) == ("leaving", "drained", 4)
    assert leaving.process.wait(20) == 0
    with RemoteStore(known["one"].address) as store:
        eventually(lambda: store.lookup(OTHERS).ready == 4)
    left = command("nodes", "--json", "--address", known["one"].address).object["nodes"]
    assert [node["node"] for node in left] == sorted(NODES)
