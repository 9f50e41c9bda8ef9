"""One worker as a replica of Ray Serve. Serve places, restarts and counts it; requests go to its own gRPC port."""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from cachestore.cluster import stores
from cachestore.cluster.host import open_many_files
from cachestore.cluster.scaling import QUEUE
from cachestore.errors import Unavailable
from cachestore.registry import Catalogue
from cachestore.service.allocation import keep_freed_memory

WORKERS = Catalogue(
    "workers",
    {"prefill": "prefill_worker.server:PrefillServer", "decode": "decode_worker.server:DecodeServer"},
)


def stay_on_loopback(node_address: str) -> None:
    """On a node that listens on loopback only, keeps Serve from opening this replica's port for calls between
    deployments, which nobody makes here, to all interfaces; Serve has no setting for it."""
    if not ip_address(node_address).is_loopback:
        return
    from ray.serve._private import replica

    listen = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: listen(server, address.replace("[::]", node_address))


class Replica:
    """Opens the worker of a role beside the store of its node, and closes it when Serve lets the replica go.

    The worker leaves the cluster map then, and its requests have `drain` seconds to end.
    """

    def __init__(self, role: str, tables: Mapping[str, Any], drain: float) -> None:
        import ray
        from ray import serve

        self._drain = drain
        open_many_files()
        keep_freed_memory()
        stay_on_loopback(ray.util.get_node_ip_address())
        node = ray.get_runtime_context().get_node_id()
        # a node that asked for no store, or has none yet, has its worker beside another one's
        store = ray.get(stores.beside(ray, node).address.remote(), timeout=30)
        name = f"{role}-{serve.get_replica_context().replica_tag.rpartition('#')[2]}"
        self._server = WORKERS.load(role)(tables, store=store, name=name, node=node[:12])
        self._server.open()

    def check_health(self) -> None:
        """Asked by Serve; raising makes it start another replica."""
        if not self._server.address or not self._server.healthy:
            raise Unavailable("the worker is not serving, or hangs")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Serve, for the policy that scales."""
        return {QUEUE: float(self._server.queue)}

    def __del__(self) -> None:
        # Serve calls this when it stops a replica; a constructor that failed has no server
        server = getattr(self, "_server", None)
        if server is not None:
            server.close(self._drain)
