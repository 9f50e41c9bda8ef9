"""Brings a cluster up and takes it down: one store actor a node, workers by Ray Serve."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cachestore.cluster.host import StoreHost, actor_name
from cachestore.cluster.ports import free_port
from cachestore.cluster.replica import Replica
from cachestore.cluster.runtime import NAMESPACE, Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.config import build
from cachestore.errors import CacheStoreError, ConfigError, Unavailable
from cachestore.service.client import RemoteStore
from cachestore.service.settings import ServiceSettings

Tell = Callable[[str], None]

APPLICATION = "cachestore"
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Deployment:
    """What is up: the address of each node's store, by node."""

    stores: Mapping[str, str]

    @property
    def store(self) -> str:
        """The address of one of the stores, the first by node."""
        return self.stores[min(self.stores)]


def up(runtime: Runtime, tables: Mapping[str, Any], tell: Tell = lambda _: None) -> Deployment:
    """Starts stores and workers; returns when all workers are in the cluster map."""
    ray, settings = runtime.ray, runtime.settings
    nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
    _refuse_embedded(tables, nodes)
    tell(f"starting the store on {len(nodes)} node{'s' * (len(nodes) > 1)}")
    deployment = Deployment(_stores(ray, tables, nodes, settings))
    add_workers(tables, settings, tell)
    await_workers(deployment.stores.values(), settings.replicas(), settings.start_timeout)
    return deployment


def add_workers(tables: Mapping[str, Any], settings: ClusterSettings, tell: Tell, application: str = "") -> None:
    """Starts the workers that `settings` counts, as Serve applications of their own name."""
    for role, replicas in settings.replicas().items():
        if replicas:
            tell(f"starting {replicas} {role} worker{'s' * (replicas > 1)}")
            _serve(role, replicas, tables, settings, f"{application or APPLICATION}-{role}")


def down(runtime: Runtime) -> int:
    """Takes workers and stores down; how many stores there were."""
    ray = runtime.ray
    from ray import serve

    for name in list(serve.status().applications):
        if name.startswith(APPLICATION):
            serve.delete(name)
    stopped = 0
    for node in ray.nodes():
        with suppress(ValueError):
            actor = ray.get_actor(actor_name(node["NodeID"]), namespace=NAMESPACE)
            with suppress(ray.exceptions.RayError):
                ray.get(actor.close.remote(), timeout=10)
            ray.kill(actor)
            stopped += 1
    return stopped


def kill_worker(runtime: Runtime, application: str, role: str, name: str) -> None:
    """Kills the process of the worker that the cluster map calls `name`; Serve starts another."""
    replica = f"SERVE_REPLICA::{application}#{role}#{name.removeprefix(f'{role}-')}"
    runtime.ray.kill(runtime.ray.get_actor(replica, namespace="serve"))


def _refuse_embedded(tables: Mapping[str, Any], nodes: list[str]) -> None:
    embedded = any(
        tier.get("name") == "redis" and tier.get("url", "embedded") == "embedded" for tier in tables["tiers"]
    )
    if embedded and len(nodes) > 1:
        raise ConfigError(
            f'tiers.redis.url = "embedded" is one server a node, and this cluster has {len(nodes)} nodes, which '
            "could not see each other's blocks; name one Redis for all: redis://host:port"
        )


def _stores(ray: Any, tables: Mapping[str, Any], nodes: list[str], settings: ClusterSettings) -> dict[str, str]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    port = build(ServiceSettings, tables.get("service", {}), "service").port
    hosts: dict[str, int] = {}
    actors = {}
    for node in ray.nodes():
        if node["NodeID"] not in nodes:
            continue
        # several nodes of one machine share its ports; a port chosen here stays the same when the actor restarts
        beside = hosts.setdefault(node["NodeManagerAddress"], 0)
        hosts[node["NodeManagerAddress"]] += 1
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
            .remote(dict(tables), node["NodeID"][:12], port + beside if port else free_port())
        )
    try:
        return {node: ray.get(actor.address.remote(), timeout=settings.start_timeout) for node, actor in actors.items()}
    except ray.exceptions.RayActorError as error:
        raise ConfigError(f"the store did not start: {_cause(str(error))}") from error
    except ray.exceptions.GetTimeoutError as error:
        raise Unavailable(
            f"the store did not start within cluster.start_timeout = {settings.start_timeout} s"
        ) from error


def _serve(role: str, replicas: int, tables: Mapping[str, Any], settings: ClusterSettings, application: str) -> None:
    from ray import serve

    # requests go straight to each replica's gRPC port
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    deployment = serve.deployment(
        name=role,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=5,
    )(Replica)
    running = deployment.bind(role, dict(tables))
    with ThreadPoolExecutor(1) as pool:
        # Serve waits for ever for what the cluster cannot give
        started = pool.submit(serve.run, running, name=application, route_prefix=None)
        try:
            started.result(settings.start_timeout)
        except TimeoutError as error:
            state = serve.status().applications[application]
            serve.delete(application)
            raise Unavailable(
                f"the {role} workers did not start within cluster.start_timeout = {settings.start_timeout} s; "
                f"each asks for {settings.num_cpus:g} CPUs and {settings.num_gpus:g} GPUs ({_cause(state.message)})"
            ) from error
        except RuntimeError as error:
            message = serve.status().applications[application].message
            serve.delete(application)
            raise ConfigError(f"the {role} workers did not start: {_cause(message or str(error))}") from error


def await_workers(stores: Iterable[str], wanted: Mapping[str, int], timeout: float) -> None:
    """Waits until so many workers of each role are in the stores' cluster maps; Unavailable after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        known: dict[str, int] = dict.fromkeys(wanted, 0)
        for address in stores:
            with suppress(CacheStoreError), RemoteStore(address) as store:
                for role in wanted:
                    known[role] += len(store.members(role)[1])
        if all(known[role] >= count for role, count in wanted.items()):
            return
        if time.monotonic() > until:
            raise Unavailable(f"workers are missing after cluster.start_timeout = {timeout} s: {known} of {wanted}")
        time.sleep(POLL_SECONDS)


def _cause(text: str) -> str:
    """The line that says what went wrong, out of the remote traceback that Ray puts into its errors."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("cachestore.errors.")]
    return (ours or lines or ["unknown"])[-1].removeprefix("cachestore.errors.")
