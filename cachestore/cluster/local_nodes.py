"""Several nodes of Ray on this machine, to try out what a cluster does when one of them dies."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cachestore.cluster.runtime import OBJECT_STORE_BYTES, own_environment
from cachestore.errors import ConfigError, InvalidArgument, Unavailable

START_SECONDS = 120
"""How long a node may take to start on a machine that starts several at once."""


@dataclass(eq=False)
class LocalNodes:
    """A Ray of `count` nodes with `cpus` each, all on loopback; it ends with this process."""

    count: int
    cpus: int
    _cluster: Any = None
    _others: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where its control plane is: for `cluster.address`."""
        return str(self._cluster.address)

    @property
    def others(self) -> Mapping[str, Any]:
        """Its nodes but the first, which has the control plane, by id."""
        return self._others

    def open(self) -> None:
        """Starts all nodes. Unavailable if Ray cannot."""
        for name, value in own_environment().items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("RAY_raylet_start_wait_time_s", str(START_SECONDS))
        try:
            from ray.cluster_utils import Cluster
        except ImportError as error:
            raise ConfigError("ray is not installed; install it with: pip install 'kv-cachestore[ray]'") from error
        # it says at the start which Ray this process knew of before
        logging.getLogger("ray").setLevel(logging.ERROR)
        each = {
            "num_cpus": self.cpus,
            "object_store_memory": OBJECT_STORE_BYTES,
            "node_ip_address": "127.0.0.1",
            "include_dashboard": False,
        }
        try:
            self._cluster = Cluster(initialize_head=True, head_node_args=each)
            for _ in range(self.count - 1):
                node = self._cluster.add_node(**each)
                self._others[node.node_id] = node
            self._cluster.wait_for_nodes()
        except Exception as error:  # Ray has no kind of its own for this
            raise Unavailable(f"cannot start {self.count} nodes of Ray on this machine: {error}") from error

    def runs(self, name: str) -> dict[str, int]:
        """How many actors whose name begins so run on each of the other nodes."""
        from ray._private import state

        # no public way finds actors of other namespaces without Ray's dashboard
        alive = state.actors(actor_state_name="ALIVE").values()
        nodes = [actor["Address"]["NodeID"] for actor in alive if actor["Name"].startswith(name)]
        return {node_id: nodes.count(node_id) for node_id in self._others}

    def kill(self, node_id: str) -> None:
        """Kills a node, and all that runs on it."""
        if node_id not in self._others:
            raise InvalidArgument(f"{node_id!r} is no node that may be killed")
        self._cluster.remove_node(self._others.pop(node_id), allow_graceful=False)

    def close(self) -> None:
        """Ends all nodes. Closing twice is allowed."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.shutdown()

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
