"""A Ray of three nodes with a store on each, in a process of its own: does to it what each line of its input says.

Its arguments are the tables of the stores, and the addresses of the nodes' machines, of loopback, which is one machine
unless they say otherwise. It says the addresses of the stores, by node, and then an answer to each line
`{"what": …, "node": number}`; None is the head. A cluster of Ray is ended by who reaps its processes, so it is here.
"""

import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NODES = 3
MEMORY = 80 << 20
OUTAGE = "3600"
"""Seconds without the GCS after which Ray itself would end everything."""

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_gcs_storage": "rocksdb",
    "RAY_gcs_rpc_server_reconnect_timeout_s": OUTAGE,
    # Ray ends actors where the machine is short of memory, whoever takes it: that is no fault of this cluster
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class RayCluster:
    """The head and the nodes, numbered as they came; stores on all of them."""

    def __init__(self, tables: dict[str, Any], folder: str, machines: Sequence[str]) -> None:
        os.environ.update(ENVIRONMENT, RAY_gcs_storage_path=f"{folder}/gcs")
        import ray
        from ray.cluster_utils import Cluster

        self.ray, self.tables = ray, tables
        shape = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
        head, *others = [{**shape, "node_ip_address": machine} for machine in machines]
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.head_node, *(self.cluster.add_node(**other) for other in others)]
        ray.init(address=self.cluster.address, namespace="cachestore", log_to_driver=False, logging_level="ERROR")

    def start(self, timeout: float = 60.0) -> dict[str, str]:
        """Starts the stores that are not there; where each node's is."""
        from cachestore.cluster import stores
        from cachestore.cluster.settings import ClusterSettings

        found = stores.start(self.ray, self.tables, stores.alive(self.ray), ClusterSettings(start_timeout=timeout))
        return {str(number): found[node.node_id] for number, node in enumerate(self.nodes) if node.node_id in found}

    def up(self) -> dict[str, Any]:
        """Starts workers and the gateway too, as the tables say; where it listens, and all stores."""
        from cachestore.cluster.deploy import up
        from cachestore.cluster.runtime import Runtime
        from cachestore.cluster.settings import ClusterSettings
        from cachestore.config import build

        found = up(Runtime(build(ClusterSettings, self.tables.get("cluster", {}), "cluster")), self.tables)
        return {"gateway": found.gateway, "stores": list(found.stores.values())}

    def start_twice(self, timeout: float = 60.0) -> list[dict[str, str]]:
        """The same, by two at once."""
        with ThreadPoolExecutor(2) as pool:
            return [each.result() for each in [pool.submit(self.start, timeout) for _ in range(2)]]

    def proxies(self) -> list[int]:
        """The nodes where Ray Serve takes requests."""
        from ray import serve

        well = [node_id for node_id, status in serve.status().proxies.items() if status == "HEALTHY"]
        return [number for number, node in enumerate(self.nodes) if node.node_id in well]

    def actor(self, number: int, title: str = "ray::Store") -> int:
        """The process of a node's store, or of another actor of this title; 0 if it has none."""
        raylet = self.nodes[number].all_processes["raylet"][0].process.pid
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == raylet and title.encode() in (place / "cmdline").read_bytes():
                    return int(place.name)
            except OSError:
                continue
        return 0

    def signal_actor(self, number: int, name: str, title: str = "ray::Store") -> int:
        """Sends a signal to a node's store, or to another of its actors; its process."""
        pid = self.actor(number, title)
        os.kill(pid, signal.Signals[name])
        return pid

    def give_up_actor(self, number: int) -> None:
        """Ends a node's store for good, as when Ray has no restarts left."""
        from cachestore.cluster import stores

        self.ray.kill(stores.found(self.ray)[self.nodes[number].node_id], no_restart=True)

    def kill_raylet(self, number: int) -> None:
        """Ends what keeps a node's processes."""
        raylet = self.nodes[number].all_processes["raylet"][0].process
        raylet.kill()
        # while nobody has waited for it, what it kept believes that it lives
        raylet.wait()

    def signal_gcs(self, name: str) -> None:
        """Sends a signal to what leads the cluster."""
        self.nodes[0].all_processes["gcs_server"][0].process.send_signal(signal.Signals[name])

    def kill_gcs(self) -> None:
        """Ends what leads the cluster."""
        self.nodes[0].kill_gcs_server()

    def start_gcs(self) -> None:
        """Starts it again, from its file."""
        self.nodes[0].start_gcs_server()

    def fill_objects(self) -> int:
        """Puts more into Ray's object store than it has memory for; how many bytes."""
        kept = [self.ray.put(bytes(MEMORY // 4)) for _ in range(6)]
        return sum(len(self.ray.get(one, timeout=30)) for one in kept)

    def objects(self) -> str:
        """What lies in Ray's object store."""
        from ray._private.internal_api import memory_summary

        return str(memory_summary(self.cluster.address, stats_only=True))

    def end(self) -> None:
        """Ends all processes, in whatever state they are."""
        for node in reversed(self.nodes):
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


if __name__ == "__main__":
    # Ray prints what it has to say among the answers
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # what is killed may write into it to the last
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as root:
        begun = RayCluster(json.loads(sys.argv[1]), root, sys.argv[2:] or ["127.0.0.1"] * NODES)
        try:
            print(json.dumps(begun.start_twice()), file=answers)
            for line in sys.stdin:
                told = json.loads(line)
                since = time.monotonic()
                try:
                    answer: dict[str, Any] = {"said": getattr(begun, told.pop("what"))(**told)}
                except Exception as error:
                    answer = {"error": type(error).__name__, "text": str(error)[:2000]}
                print(json.dumps({"took": time.monotonic() - since, **answer}), file=answers)
        finally:
            begun.end()
    # an interpreter that leaves Ray the ordinary way may wait for it for ever
    os._exit(0)
