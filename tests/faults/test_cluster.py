"""Three nodes with one Redis on machines of their own: who dies, hangs or is cut off costs misses, and nobody waits."""

import time
from collections.abc import Iterator

import pytest

from tests.faults.namespaces import Forbidden
from tests.faults.nodes import HEAL_SECONDS, LIFE, NAMES, PEER_SECONDS, Cluster, eventually
from tests.faults.user_process import BLOCKS

pytestmark = pytest.mark.slow

MEMORY = [{"name": "cpu", "capacity": "16MiB"}]
PEER, CPU, DISK = (["peer"] * BLOCKS, ["cpu"] * BLOCKS, ["disk"] * BLOCKS)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes; skipped where a user may have no network of his own."""
    try:
        with Cluster(tmp_path_factory.mktemp("nodes")) as made:
            made.user.well(NAMES, 10.0)
            yield made
    except Forbidden as why:
        pytest.skip(f"no network namespaces here: {why}")


@pytest.fixture
def cluster(started: Cluster) -> Iterator[Cluster]:
    """The same, well again after each test, with nothing held, and what every node counts adds up."""
    yield started
    started.network.mend()
    for name in NAMES:
        # what failed amid its faults must not fail what comes after it
        if name not in started.nodes or started.nodes[name].popen.poll() is not None:
            started.start(name)
    started.user.well(NAMES, 10.0)
    for node in NAMES:
        for held in ("read_open", "leases_open", "puts_open"):
            eventually(lambda node=node, held=held: started.user.figure(node, held) == 0)  # type: ignore[misc]


def test_p3_the_rest_serves_when_one_or_all_but_one_are_killed(cluster: Cluster) -> None:
    user = cluster.user
    of_a, of_b, of_c = user.shared("a", "b"), user.shared("b", "c"), user.put("c")
    kept, lost = user.put("a", durable=True), user.put("b")
    cluster.nodes["a"].kill()
    assert user.read("c", of_b) == PEER
    # what was lost is a miss, and is computed
    assert user.read("c", of_a) == []
    assert user.use("put", "c", of_a)["statuses"] == ["stored"] * BLOCKS
    user.gets("b", of_a)
    cluster.nodes["b"].kill()
    assert user.read("c", of_c) == user.read("c", of_a) == CPU
    # of what it read often it has a copy
    assert user.read("c", of_b) == CPU and user.read("c", lost) == []
    for node in ("a", "b"):
        cluster.restart(node)
    user.well(NAMES, HEAL_SECONDS)
    assert user.read("a", kept) == DISK
    assert user.figure("a", "data_loss") == 0


@pytest.mark.parametrize("seconds", [1.0, LIFE + 1.0])
def test_p4_a_node_that_stands_still_costs_others_its_time_once(cluster: Cluster, seconds: float) -> None:
    user = cluster.user
    seed, unread = user.shared("a", "b"), user.put("a")
    user.finds("c", unread)
    cluster.nodes["a"].stop()
    try:
        began = time.monotonic()
        assert user.read("c", unread) == user.read("c", seed) == []
        assert time.monotonic() - began < PEER_SECONDS + 1.0
        time.sleep(max(0.0, began + seconds - time.monotonic()))
    finally:
        cluster.nodes["a"].go_on()
    # what it had is found again, and is what it was
    user.gets("c", unread)


def test_p5_nodes_serve_what_they_have_while_the_directory_stands_still(cluster: Cluster) -> None:
    user = cluster.user
    own, other = user.put("a"), user.shared("b", "a")
    cluster.redis.pause()
    try:
        for _ in range(3):
            assert user.read("a", own) == CPU
            user.read("a", other)
            # nobody leads: who cannot ask goes by itself
            user.put("a")
        time.sleep(LIFE)
        assert user.read("b", other) == CPU
    finally:
        cluster.redis.resume()
    user.gets("c", own)


def test_p5_all_is_said_again_to_a_directory_that_comes_back_empty(cluster: Cluster) -> None:
    user = cluster.user
    seed = user.shared("a", "b")
    cluster.redis.kill()
    assert user.read("a", seed) == CPU
    user.read("c", seed)
    cluster.redis.start()
    user.gets("c", seed)


def test_p8_a_node_that_restarts_between_two_heartbeats_is_another(cluster: Cluster) -> None:
    user = cluster.user
    seed, unread = user.shared("a", "b"), user.put("a")
    user.finds("c", unread)
    # without its disk it has nothing of what it had
    cluster.restart("a", tiers=MEMORY)
    assert user.read("c", unread) == user.read("c", seed) == []
    assert user.use("put", "a", seed)["statuses"] == ["stored"] * BLOCKS
    user.gets("c", seed)
    eventually(lambda: user.figure("c", "directory_lives") == len(NAMES))
    cluster.restart("a")


def test_p11_another_node_at_the_same_address_is_not_taken_for_it(cluster: Cluster) -> None:
    user = cluster.user
    seed = user.shared("a", "b")
    cluster.nodes.pop("a").kill()
    cluster.start("z", at="a")
    try:
        assert user.read("c", seed) == user.read("b", seed) == []
        # the stranger at this address is found for what it has itself
        assert user.use("put", "a", seed)["statuses"] == ["stored"] * BLOCKS
        user.gets("c", seed)
        assert user.use("lookup", "c", seed)["nodes"] == ["z"]
    finally:
        cluster.nodes.pop("z").kill()


def test_p11_of_two_nodes_of_one_name_the_later_counts(cluster: Cluster) -> None:
    user = cluster.user
    seed = user.shared("a", "c")
    cluster.nodes.pop("b").kill()
    earlier = cluster.nodes.pop("a")
    # the earlier process goes on, as after a split of the network in which another was started in its place
    cluster.start("a", at="b", tiers=MEMORY)
    try:
        eventually(lambda: user.figure("a", "directory_alive") == 0)
        # not by reads: of what is read again c keeps a copy
        eventually(lambda: not user.ready("c", seed))
        assert user.read("c", seed) == []
        # it serves who asks it, and the later one is found
        assert user.read("a", seed) == CPU
        user.gets("c", user.put("b"))
    finally:
        cluster.nodes.pop("a").kill()
        earlier.kill()


@pytest.mark.parametrize("ways", [("ab", "ba"), ("ab",), ("ba",)], ids=["both ways", "there", "back"])
def test_n6_two_nodes_that_are_parted_read_from_others(cluster: Cluster, ways: tuple[str, ...]) -> None:
    user = cluster.user
    seed, unread = user.shared("b", "a", "c"), user.put("b")
    user.finds("a", unread)
    for source, sink in ways:
        cluster.network.cut(source, sink)
    assert user.read("a", unread) == []
    assert user.read("c", unread) == PEER
    began = time.monotonic()
    for _ in range(4):
        # who has failed is not waited for again and again
        user.read("c", seed), user.read("a", seed)
    assert time.monotonic() - began < 2 * (PEER_SECONDS + 1.0)
    # c has a copy by now, and that can be had
    eventually(lambda: len(user.read("a", seed)) == BLOCKS)
    cluster.network.mend()
    user.gets("a", user.put("b"))


@pytest.mark.parametrize("ways", [("a", "redis"), ("redis", "a")], ids=["there", "back"])
def test_n6_a_node_that_is_cut_off_from_the_directory_is_alone_until_it_heals(
    cluster: Cluster, ways: tuple[str, str]
) -> None:
    user = cluster.user
    seed, other = user.shared("a", "b"), user.shared("b", "c")
    cluster.network.cut(*ways)
    assert user.read("a", seed) == CPU
    user.read("a", other)
    lonely = user.put("a")
    time.sleep(LIFE)
    eventually(lambda: not user.ready("c", seed))
    assert user.read("c", other) == PEER
    cluster.network.mend()
    user.gets("c", lonely)
    user.gets("c", seed)


def test_n6_a_network_that_flaps_latches_nothing(cluster: Cluster) -> None:
    user = cluster.user
    seeds = [user.put("b") for _ in range(3)]
    for seed in seeds:
        user.finds("a", seed)
    for seed in seeds:
        cluster.network.part("a", "b")
        user.read("a", seed, 1.0)
        cluster.network.mend()
        user.read("a", seed, 1.0)
        time.sleep(0.5)
    later = user.put("b")
    user.gets("a", later, 2 * HEAL_SECONDS)
