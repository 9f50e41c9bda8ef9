"""A scenario of its own process: what a Ray cluster that is not ours cannot be made to do. Prints one JSON object."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# before Ray is imported: see cachestore/cluster/runtime.py
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN="k" * 64,
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
)

from ray.cluster_utils import Cluster

from cachestore.cluster import stores
from cachestore.cluster.deploy import down, up
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.config import read

NODE: dict[str, Any] = dict(
    num_cpus=4, object_store_memory=80 << 20, node_ip_address="127.0.0.1", include_dashboard=False
)


def raised(work: Callable[[], object]) -> dict[str, Any]:
    """What `work` raises, and how long that took."""
    started = time.monotonic()
    try:
        work()
    except Exception as error:
        return {"kind": type(error).__name__, "text": str(error), "seconds": time.monotonic() - started}
    return {"kind": "", "text": "nothing was raised", "seconds": time.monotonic() - started}


def left() -> dict[str, Any]:
    """What of ours is on the cluster."""
    import ray
    from ray import serve

    return {"stores": len(stores.found(ray)), "applications": sorted(serve.status().applications)}


def placed(deployment: Any) -> dict[str, Any]:
    """What the replicas see of the GPUs that Ray gave them."""
    import ray

    from cachestore.service.client import RemoteStore

    seen = {}
    with RemoteStore(deployment.store) as store:
        for member in store.members()[1]:
            name = f"SERVE_REPLICA::cachestore-{member.role}#{member.role}#{member.name.partition('-')[2]}"
            actor = ray.get_actor(name, namespace="serve")
            seen[member.role] = ray.get(
                actor.__ray_call__.remote(lambda self: __import__("os").environ.get("CUDA_VISIBLE_DEVICES")), timeout=20
            )
    return {"visible": seen, "gpus_left": ray.available_resources().get("GPU", 0.0)}


def small(cluster: Cluster, tables: dict[str, Any], model: str) -> dict[str, Any]:
    """One node with two GPUs that only Ray believes in."""
    address = cluster.address
    found: dict[str, Any] = {}
    settings = ClusterSettings(address=address, prefill=1, decode=1, num_gpus=3, start_timeout=6)
    with Runtime(settings) as runtime:
        found["too_many_gpus"] = raised(lambda: up(runtime, tables))
        found["left_after_gpus"] = left()
    with Runtime(ClusterSettings(address=address, prefill=1, decode=1)) as runtime:
        missing = [{"name": "cpu", "capacity": "64MiB"}, {"name": "redis", "url": "redis://:hidden@127.0.0.1:1"}]
        found["no_redis"] = raised(lambda: up(runtime, {**tables, "tiers": missing}))
        found["left_after_redis"] = left()
    if model == "quick":
        return found
    with Runtime(ClusterSettings(address=address, prefill=1, decode=1, num_gpus=1)) as runtime:
        deployment = up(runtime, tables)
        found["placed"] = placed(deployment)
        found["again"] = dict(up(runtime, tables).stores) == dict(deployment.stores)
        other = {**tables, "tiers": [{"name": "cpu", "capacity": "32MiB"}]}
        found["other_configuration"] = raised(lambda: up(runtime, other))
        found["left_after_other"] = left()["stores"]
        found["stopped"] = down(runtime)
        found["left_after_down"] = left()
    with Runtime(ClusterSettings(address=address, prefill=1, decode=0)) as runtime:
        wrong = {**tables, "engine": {"model": "/nowhere/at/all"}}
        found["wrong_model"] = raised(lambda: up(runtime, wrong))
        found["left_after_model"] = left()
    return found


def tokens(address: str) -> dict[str, Any]:
    """Other tokens than the cluster's, and nobody there."""
    found = {"unreachable": raised(lambda: Runtime(ClusterSettings(address="127.0.0.1:1")).open())}
    right = os.environ.pop("RAY_AUTH_TOKEN")
    found["no_token"] = raised(lambda: Runtime(ClusterSettings(address=address)).open())
    os.environ["RAY_AUTH_TOKEN"] = "x" * 64
    found["wrong_token"] = raised(lambda: Runtime(ClusterSettings(address=address)).open())
    os.environ["RAY_ADDRESS"] = address
    found["wrong_token_auto"] = raised(lambda: Runtime(ClusterSettings(address="auto")).open())
    del os.environ["RAY_ADDRESS"]
    os.environ["RAY_AUTH_TOKEN"] = right
    return found


def two_nodes(cluster: Cluster, tables: dict[str, Any]) -> dict[str, Any]:
    """Each with a Redis of its own would be two stores that do not see each other."""
    cluster.add_node(**NODE)
    with Runtime(ClusterSettings(address=cluster.address)) as runtime:
        return {"embedded": raised(lambda: up(runtime, tables)), "left_after_embedded": left()}


if __name__ == "__main__":
    scenario, tables = sys.argv[1], read(Path(sys.argv[2]))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_gpus": 2})
    try:
        found = small(cluster, tables, scenario)
        if scenario == "quick":
            found |= tokens(cluster.address) | two_nodes(cluster, tables)
        print(json.dumps(found, indent=1), flush=True)
    finally:
        cluster.shutdown()
        # Ray may wait for ever for what is gone
        os._exit(0)
