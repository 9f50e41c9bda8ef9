"""Brings a cluster up and takes it down: one store actor on each node that asks for one, workers by Ray Serve."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cachestore.cluster import gateways, managed, stores, watching, workers
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.workers import Tell


@dataclass(frozen=True)
class Deployment:
    """What is up: the address of each node's store, by node, and the gateway's URL, empty if there is none."""

    stores: Mapping[str, str]
    gateway: str = ""

    @property
    def store(self) -> str:
        """The address of one of the stores, the first by node."""
        return self.stores[min(self.stores)]


def up(runtime: Runtime, tables: Mapping[str, Any], tell: Tell = lambda _: None) -> Deployment:
    """Starts stores, workers and, with its section, the gateway; returns when all workers are in the cluster map.

    What fails leaves nothing behind.

    Where stores are up already it sees to the rest: missing stores are started, the workers and the gateway replaced.
    """
    ray, settings = runtime.ray, runtime.settings
    nodes = stores.asking(ray, settings)
    stores.refuse_embedded(tables, nodes)
    stores.refuse_loopback(tables, nodes)
    before = stores.found(ray)
    tables = managed.started(ray, tables, settings, tell)
    tell(f"starting the store on {len(nodes)} node{'s' * (len(nodes) > 1)}")
    try:
        deployment = Deployment(stores.start(ray, tables, nodes, settings), gateways.start_proxy(tables))
        watching.start(ray, tables, settings)
        if deployment.gateway:
            # it comes up beside the workers, and knows them once they are there
            gateways.begin_gateway(tables, settings, deployment.stores.values(), tell)
        workers.add_workers(tables, settings, tell)
        workers.await_workers(deployment.stores.values(), settings.replicas(), settings.start_timeout)
        if deployment.gateway:
            gateways.await_gateway(settings)
            if settings.decode:
                gateways.await_ready(deployment.gateway, tables, settings)
    except BaseException:
        if not before:
            down(runtime)
        raise
    return deployment


def down(runtime: Runtime) -> int:
    """Takes gateway, workers and stores down; how many stores there were."""
    watching.stop(runtime.ray)
    workers.remove_workers(runtime.settings.drain)
    stopped = stores.stop(runtime.ray)
    managed.stop(runtime.ray)
    return stopped
