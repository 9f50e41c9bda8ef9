"""The stores of a cluster: one actor on each node that asks for one, pinned there, restarted, found by name."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cachestore.cluster.causes import cause
from cachestore.cluster.host import actor_name, store_tables
from cachestore.cluster.ports import free_port
from cachestore.cluster.runtime import NAMESPACE
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.store_actor import DRAINED, StoreActor
from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.service.settings import ServiceSettings, is_loopback

CLOSE_SECONDS = 10.0

ABOUT_SECONDS = 5.0
"""How long a store may take to say where it is, when another one is placed beside it."""

Node = Mapping[str, Any]


def alive(ray: Any) -> list[Node]:
    """The nodes there are, always in the same order."""
    return sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))


def asking(ray: Any, settings: ClusterSettings) -> list[Node]:
    """The nodes that ask for a store. ConfigError if none does."""
    nodes = alive(ray)
    found = [node for node in nodes if asks(node, settings)]
    if nodes and not found:
        label = f"the label {settings.store_label!r} (cluster.store_label)" if settings.store_label else ""
        resource = f"the resource {settings.store_resource!r} (cluster.store_resource)"
        wanted = " and ".join(filter(None, (label, resource if settings.store_resource else "")))
        raise ConfigError(
            f"none of {len(nodes)} nodes has {wanted}; start one with `ray start --labels` or --resources"
        )
    return found


def asks(node: Node, settings: ClusterSettings) -> bool:
    """Whether this node is to have a store."""
    key, _, value = settings.store_label.partition("=")
    labels: Mapping[str, str] = node.get("Labels") or {}
    if key and (key not in labels or (value and labels[key] != value)):
        return False
    return not settings.store_resource or bool(node["Resources"].get(settings.store_resource))


def found(ray: Any) -> dict[str, Any]:
    """The store actors that are there, by node."""
    actors = {}
    for node in ray.nodes():
        try:
            actors[node["NodeID"]] = ray.get_actor(actor_name(node["NodeID"]), namespace=NAMESPACE)
        except ValueError:
            continue
    return actors


def drained(node_id: str) -> bool:
    """Whether the store of this node was drained, and is not to be started again by itself."""
    from ray.experimental.internal_kv import _internal_kv_exists

    return bool(_internal_kv_exists(DRAINED + node_id.encode()))


def beside(ray: Any, node_id: str) -> Any:
    """The store of this node, else another one; Unavailable if there is none."""
    actors = found(ray)
    if not actors:
        raise Unavailable("there is no store on any node yet")
    return actors.get(node_id) or actors[min(actors)]


def refuse_embedded(tables: Mapping[str, Any], nodes: Sequence[Node]) -> None:
    """ConfigError for a Redis, or a directory, that only one node would see, where there are several."""
    embedded = any(
        tier.get("name") == "redis" and tier.get("url", "embedded") == "embedded" for tier in tables["tiers"]
    )
    if embedded and len(nodes) > 1:
        raise ConfigError(
            f'tiers.redis.url = "embedded" is one server a node, and this cluster has {len(nodes)} nodes, which '
            "could not see each other's blocks; name one Redis for all: redis://host:port, or, to try it out, "
            'write "managed"'
        )
    if tables.get("directory", {}).get("name") == "memory" and len(nodes) > 1:
        raise ConfigError(
            f'directory.name = "memory" is in one process, and this cluster has {len(nodes)} nodes; write "redis", or '
            "leave [directory] out for nodes that do not know of each other"
        )


def refuse_loopback(tables: Mapping[str, Any], nodes: Sequence[Node]) -> None:
    """ConfigError where the stores of several machines would tell each other one address."""
    addresses = {str(node.get("NodeManagerAddress", "")) for node in nodes}
    # a trial of several nodes gives each an address of loopback: that is one machine
    machines = {"" if is_loopback(address) else address for address in addresses}
    if "directory" not in tables or len(machines) < 2:
        return
    settings = build(ServiceSettings, tables.get("service", {}), "service")
    if settings.advertise:
        raise ConfigError(
            f"service.advertise = {settings.advertise!r} is one place, and this cluster has {len(machines)} machines, "
            'whose stores would look for each other there; leave it out: with service.host = "0.0.0.0" each tells the '
            "address that Ray has for its machine"
        )
    if is_loopback(settings.host):
        raise ConfigError(
            f"service.host = {settings.host!r} is reached on its own machine alone, and this cluster has "
            f'{len(machines)} machines, whose stores would look for each other there; write "0.0.0.0", with TLS and '
            "identities (docs/security.md): each then tells the address that Ray has for its machine"
        )


def ports(ray: Any, actors: Mapping[str, Any], nodes: Collection[Node]) -> dict[str, set[int]]:
    """The ports of these stores, by the address of their machine; those that do not say are left out."""
    machines = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
    asked = {actor.address.remote(): machines[node] for node, actor in actors.items() if node in machines}
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ABOUT_SECONDS) if asked else ([], [])
    taken: dict[str, set[int]] = {}
    for answer in ready:
        try:
            port = ray.get(answer, timeout=ABOUT_SECONDS).rpartition(":")[2]
        except ray.exceptions.RayError:
            continue
        if port.isdigit():
            taken.setdefault(asked[answer], set()).add(int(port))
    return taken


def launch(ray: Any, tables: Mapping[str, Any], node: Node, taken: set[int], *, patient: bool) -> Any:
    """The store of this node, begun if it is not there; its port is added to those `taken` on the machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # several nodes of one machine share its ports; a port chosen here stays the same when the actor restarts
    port = build(ServiceSettings, tables.get("service", {}), "service").port
    while port and port in taken:
        port += 1
    port = port or free_port()
    taken.add(port)
    return (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(StoreActor)
        .options(
            name=actor_name(node["NodeID"]),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_concurrency=4,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(dict(tables), node["NodeID"], port, node["NodeManagerAddress"], patient)
    )


def start(ray: Any, tables: Mapping[str, Any], nodes: Sequence[Node], settings: ClusterSettings) -> dict[str, str]:
    """Starts what is not there yet, drained or not; the address of each node's store, by node."""
    from ray.experimental.internal_kv import _internal_kv_del

    actors = found(ray)
    taken = ports(ray, actors, nodes)
    for node in nodes:
        _internal_kv_del(DRAINED + node["NodeID"].encode())
        if node["NodeID"] not in actors:
            machine = taken.setdefault(node["NodeManagerAddress"], set())
            actors[node["NodeID"]] = launch(ray, tables, node, machine, patient=False)
    mine = store_tables(tables)
    try:
        answers = {
            node["NodeID"]: ray.get(actors[node["NodeID"]].about.remote(), timeout=settings.start_timeout)
            for node in nodes
        }
    except ray.exceptions.RayActorError as error:
        raise cause(str(error), "the store did not start") from error
    except ray.exceptions.GetTimeoutError as error:
        raise Unavailable(
            f"the store did not start within cluster.start_timeout = {settings.start_timeout:g} s"
        ) from error
    for node_id, (address, theirs) in answers.items():
        if theirs != mine:
            raise ConfigError(
                f"the store of node {node_id[:12]} at {address} is up with another configuration; "
                "take it down first: cachestore down"
            )
    return {node_id: address for node_id, (address, _) in answers.items()}


def stop(ray: Any) -> int:
    """Closes and ends all stores; how many there were."""
    actors = found(ray)
    closing = [actor.close.remote() for actor in actors.values()]
    if closing:
        # one that is stuck is killed all the same
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
    for actor in actors.values():
        ray.kill(actor)
    return len(actors)
