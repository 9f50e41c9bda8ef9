"""The stores of a cluster: one actor a node, pinned there, restarted, found by name."""

from collections.abc import Mapping, Sequence
from typing import Any

from cachestore.cluster.causes import cause
from cachestore.cluster.host import StoreHost, actor_name, store_tables
from cachestore.cluster.ports import free_port
from cachestore.cluster.runtime import NAMESPACE
from cachestore.cluster.settings import ClusterSettings
from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.service.settings import ServiceSettings

CLOSE_SECONDS = 10.0

Node = Mapping[str, Any]


def alive(ray: Any) -> list[Node]:
    """The nodes to put a store on, always in the same order."""
    return sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))


def found(ray: Any) -> dict[str, Any]:
    """The store actors that are there, by node."""
    actors = {}
    for node in ray.nodes():
        try:
            actors[node["NodeID"]] = ray.get_actor(actor_name(node["NodeID"]), namespace=NAMESPACE)
        except ValueError:
            continue
    return actors


def refuse_embedded(tables: Mapping[str, Any], nodes: Sequence[Node]) -> None:
    """ConfigError for a Redis, or a directory, that only one node would see, where there are several."""
    embedded = any(
        tier.get("name") == "redis" and tier.get("url", "embedded") == "embedded" for tier in tables["tiers"]
    )
    if embedded and len(nodes) > 1:
        raise ConfigError(
            f'tiers.redis.url = "embedded" is one server a node, and this cluster has {len(nodes)} nodes, which '
            "could not see each other's blocks; name one Redis for all: redis://host:port"
        )
    if tables.get("directory", {}).get("name") == "memory" and len(nodes) > 1:
        raise ConfigError(
            f'directory.name = "memory" is in one process, and this cluster has {len(nodes)} nodes; write "redis", or '
            "leave [directory] out for nodes that do not know of each other"
        )


def start(ray: Any, tables: Mapping[str, Any], nodes: Sequence[Node], settings: ClusterSettings) -> dict[str, str]:
    """Starts what is not there yet; the address of each node's store, by node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    port = build(ServiceSettings, tables.get("service", {}), "service").port
    hosts: dict[str, int] = {}
    actors = found(ray)
    for node in nodes:
        # several nodes of one machine share its ports; a port chosen here stays the same when the actor restarts
        beside = hosts.setdefault(node["NodeManagerAddress"], 0)
        hosts[node["NodeManagerAddress"]] += 1
        if node["NodeID"] in actors:
            continue
        actors[node["NodeID"]] = (
            ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(StoreHost)
            .options(
                name=actor_name(node["NodeID"]),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(
                dict(tables), node["NodeID"][:12], port + beside if port else free_port(), node["NodeManagerAddress"]
            )
        )
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
