"""A real Ray of three nodes: whatever of it dies or hangs, the stores that are left serve, and nobody waits."""

import ast
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.nodes import LIFE, PEER_SECONDS, eventually
from tests.faults.ray_nodes import RayNodes
from tests.faults.user_process import BLOCKS
from tests.naming import ROOT

pytestmark = pytest.mark.timeout(240)

PEER, CPU = ["peer"] * BLOCKS, ["cpu"] * BLOCKS
START_SECONDS = 20.0
ABOUT_SECONDS = 5.0
PACKAGES = ("cachestore", "gateway", "prefill_worker", "decode_worker")


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """All calls of `ray.<name>` in what we ship, and where they are."""
    return [
        (f"{file.relative_to(ROOT)}:{node.lineno}", node)
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if "ray" in (text := file.read_text()) and f".{name}(" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(called := node.func, ast.Attribute)
        and called.attr == name
        and ast.unparse(called.value).rpartition(".")[2] == "ray"
    ]


def test_y5_nothing_waits_for_ray_without_an_end() -> None:
    waits = calls("get") + calls("wait")
    assert waits
    assert [where for where, call in waits if "timeout" not in {word.arg for word in call.keywords}] == []


def test_y3_nothing_of_ours_is_put_where_its_owner_can_take_it_along() -> None:
    assert calls("put") == []


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """Stores that read from each other; at the end what those that are left count adds up."""
    with RayNodes(tmp_path_factory.mktemp("ray")) as made:
        made.user.well(made.stores, 10.0)
        yield made
        for store in set(made.stores) - {"1"}:
            made.user.figure(store, "read_blocks")


def done(answer: dict[str, Any]) -> Any:
    """What was done to Ray, which went well."""
    assert "error" not in answer, answer
    return answer["said"]


@pytest.mark.slow
def test_y7_of_two_that_start_the_stores_at_once_both_find_one_on_each_node(nodes: RayNodes) -> None:
    assert nodes.twice[0] == nodes.twice[1] and len(set(nodes.stores.values())) == 3


@pytest.mark.slow
def test_y3_y4_no_block_lies_in_the_object_store_and_nobody_needs_room_there(nodes: RayNodes) -> None:
    seed = nodes.user.shared("1", "2")
    assert " 0 objects" in done(nodes.ray("objects"))
    assert done(nodes.ray("fill_objects")) > 0
    assert "Spilled" in done(nodes.ray("objects"))
    nodes.user.gets("0", seed)
    nodes.user.shared("2", "0")


@pytest.mark.slow
def test_y1_a_killed_store_is_back_in_its_place_and_what_it_had_is_computed(nodes: RayNodes) -> None:
    user = nodes.user
    seed, other = user.shared("1", "2"), user.shared("2", "0")
    killed = done(nodes.ray("signal_actor", number=1, name="SIGKILL"))
    assert user.read("0", seed) == [] and user.read("0", other) in (PEER, CPU)
    # how soon is for a benchmark to say: Ray has to start a process
    eventually(lambda: "statuses" in user.use("put", "1", seed, 1.0), START_SECONDS)
    assert done(nodes.ray("actor", number=1)) not in (0, killed)
    user.well(nodes.stores)
    user.gets("0", seed)


@pytest.mark.slow
def test_y1_a_store_that_ray_starts_no_more_is_started_by_whoever_asks(nodes: RayNodes) -> None:
    user = nodes.user
    seed = user.shared("1", "2")
    done(nodes.ray("give_up_actor", number=1))
    eventually(lambda: user.use("lookup", "1", seed, 1.0).get("error") == "Unavailable")
    assert user.read("0", seed) == []
    user.well(("0", "2"))
    nodes.stores.update(done(nodes.ray("start")))
    user.well(nodes.stores)


@pytest.mark.slow
def test_y5_a_store_that_stands_still_keeps_nobody_waiting(nodes: RayNodes) -> None:
    user = nodes.user
    unread = user.put("1")
    user.finds("0", unread)
    done(nodes.ray("signal_actor", number=1, name="SIGSTOP"))
    try:
        began = time.monotonic()
        assert user.read("0", unread) == []
        assert time.monotonic() - began < PEER_SECONDS + 1.0
        answer = nodes.ray("start", timeout=2.0)
        # a while for where the stores are that are there, and one until all have begun
        assert answer["error"] == "Unavailable" and answer["took"] < ABOUT_SECONDS + 2.0 + 1.0, answer
    finally:
        done(nodes.ray("signal_actor", number=1, name="SIGCONT"))
    user.gets("0", unread, 2 * LIFE)


@pytest.mark.slow
def test_y2_stores_serve_each_other_while_nobody_leads_ray(nodes: RayNodes) -> None:
    user = nodes.user
    before = [done(nodes.ray("actor", number=number)) for number in range(3)]
    done(nodes.ray("signal_gcs", name="SIGSTOP"))
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        user.shared("1", "0", "2")
    done(nodes.ray("kill_gcs"))
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        user.shared("2", "0", "1")
    done(nodes.ray("start_gcs"))
    assert done(nodes.ray("start", timeout=30.0)) == nodes.stores
    assert [done(nodes.ray("actor", number=number)) for number in range(3)] == before


@pytest.mark.slow
def test_y2_a_node_whose_raylet_dies_is_gone_and_the_others_go_on(nodes: RayNodes) -> None:
    """The last of this file: the node does not come back."""
    user = nodes.user
    seed = user.shared("1", "2")
    done(nodes.ray("kill_raylet", number=1))
    eventually(lambda: user.use("lookup", "1", seed, 1.0).get("error") == "Unavailable")
    assert user.read("0", seed) == []
    user.well(("0", "2"))
    eventually(lambda: user.figure("0", "directory_lives") == 2)
