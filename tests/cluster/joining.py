"""A scenario of its own process: nodes of Ray that come and go. Prints one JSON object."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

# before Ray is imported: see cachestore/cluster/runtime.py
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN="k" * 64,
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_raylet_start_wait_time_s="120",
)

from ray.cluster_utils import Cluster

from cachestore.cluster import managed, stores, watching
from cachestore.cluster.deploy import down, up
from cachestore.cluster.runtime import NAMESPACE, Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.errors import CacheStoreError
from cachestore.service.client import RemoteStore
from cachestore.service.operating import Operating
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec

NODE: dict[str, Any] = dict(
    num_cpus=1, object_store_memory=80 << 20, node_ip_address="127.0.0.1", include_dashboard=False
)
LABEL = {"labels": {"cachestore.io/store": "yes"}}
KEYS, BLOCKS = random_prompt(small_spec(), 4)
WAITS = {"connect_timeout": "2s", "timeout": "2s"}
TABLES: dict[str, Any] = {
    "tiers": [{"name": "cpu", "capacity": "32MiB"}],
    "directory": {"name": "redis", "heartbeat": "200ms", "ttl": "5s", "server": {"url": "managed"}, **WAITS},
    "service": {"port": 0, "drain": 0.1},
}


def took(holds: Callable[[], object], seconds: float = 40.0) -> float:
    """After how many seconds it was so; fails the scenario if it never is."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"did not hold within {seconds} s")
        time.sleep(0.05)
    return time.monotonic() - begun


def known(address: str) -> list[str]:
    """The nodes that the store there knows of."""
    with contextlib.closing(Operating(address)) as operated:
        operated.open()
        try:
            return [member.name for member in operated.node(timeout=2.0).nodes]
        except CacheStoreError:
            return []


def lives(address: str) -> set[bytes]:
    """Their incarnations."""
    with contextlib.closing(Operating(address)) as operated:
        operated.open()
        try:
            return {member.incarnation for member in operated.node(timeout=2.0).nodes}
        except CacheStoreError:
            return set()


def main() -> None:
    found: dict[str, Any] = {}
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    settings = ClusterSettings(
        address=cluster.address, prefill=0, decode=0, store_label="cachestore.io/store=yes", watch=0.2
    )
    with Runtime(settings) as runtime:
        ray = runtime.ray
        try:
            up(runtime, TABLES)
        except CacheStoreError as error:
            found["nobody_asks"] = str(error)
        first = cluster.add_node(**NODE, **LABEL)
        cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        deployment = up(runtime, TABLES)
        found["first"] = [list(deployment.stores) == [first.node_id], len(stores.found(ray))]
        found["nodes"] = len(ray.nodes())
        again = up(runtime, TABLES)
        found["again"] = dict(again.stores) == dict(deployment.stores)
        actors = [*stores.found(ray).values(), ray.get_actor(watching.NAME, namespace=NAMESPACE)]
        actors.append(ray.get_actor(managed.NAME, namespace=NAMESPACE))
        found["shown"] = [ray.get(actor.__ray_call__.remote(repr)) for actor in actors]

        second = cluster.add_node(**NODE, **LABEL)
        found["joined"] = took(lambda: len(known(deployment.store)) == 2)
        joined = ray.get(stores.found(ray)[second.node_id].address.remote())
        with RemoteStore(joined) as store:
            put_blocks(store, KEYS.fingerprint, BLOCKS)
            with store.read(KEYS) as reading:
                found["read"] = len(list(reading))

        # a store that is killed comes back at the same place, and joins again
        pid = ray.get(stores.found(ray)[first.node_id].__ray_call__.remote(lambda self: __import__("os").getpid()))
        os.kill(pid, 9)
        found["restarted"] = took(lambda: len(known(deployment.store)) == 2)

        # Redis is killed with its actor, and comes back empty at the same place: every node begins another life
        before = lives(deployment.store)
        ray.kill(ray.get_actor(managed.NAME, namespace=NAMESPACE), no_restart=False)
        found["redis_restarted"] = took(
            lambda: all(len(now := lives(at)) == 2 and not now & before for at in (deployment.store, joined))
        )

        gcs = ray._private.worker.global_worker.gcs_client
        gcs.drain_node(second.node_id, 2, "the test takes it away", int((time.time() + 60) * 1000))
        found["left"] = took(lambda: len(stores.found(ray)) == 1)
        with RemoteStore(deployment.store) as store:
            found["handed_over"] = store.lookup(KEYS).ready
        time.sleep(1.0)
        found["stays_away"] = [len(stores.found(ray)), stores.drained(second.node_id)]
        found["stopped"] = down(runtime)
        found["left_behind"] = len(stores.found(ray))
    cluster.shutdown()
    print(json.dumps(found, indent=2), flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
