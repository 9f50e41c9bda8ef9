"""The workers of a cluster, placed, restarted and scaled by Ray Serve; requests go straight to their gRPC ports."""

import time
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from typing import Any

from cachestore.cluster.causes import cause
from cachestore.cluster.replica import Replica
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.scaling import autoscaling
from cachestore.cluster.settings import ClusterSettings
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.service.client import RemoteStore

Tell = Callable[[str], None]

APPLICATION = "cachestore"
REPLICA = "SERVE_REPLICA"
"""With it Serve names the actor of a replica: `SERVE_REPLICA::application#deployment#replica`."""

POLL_SECONDS = 0.1
STATUS_SECONDS = 0.5
"""Between questions to Serve: it pickles whatever is deployed for every answer, a tenth of a second of computing."""
CLOSE_SECONDS = 10.0
"""How long a worker may take to close what is its own, once its requests have ended or were given up."""

STOP_SECONDS = 20.0
"""How long Serve may take for a replica, beyond what the replica takes."""


def add_workers(tables: Mapping[str, Any], settings: ClusterSettings, tell: Tell, application: str = "") -> None:
    """Starts the workers that `settings` counts, each role as a Serve application; returns when all of them run."""
    from ray import serve

    names = {}
    targets = []
    for role, replicas in settings.replicas().items():
        if replicas:
            tell(f"starting {replicas} {role} worker{'s' * (replicas > 1)}")
            names[role] = f"{application or APPLICATION}-{role}"
            target = _deployment(serve, role, settings).bind(role, dict(tables), settings.drain)
            targets.append(serve.RunTarget(target, name=names[role], route_prefix=None))
    if not targets:
        return
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    try:
        # Serve itself waits for ever for what the cluster cannot give
        serve.run_many(targets, wait_for_applications_running=False)
        _await_running(serve, names, settings)
    except BaseException:
        _delete(serve, set(names.values()), settings.drain)
        raise


def await_workers(stores: Iterable[str], wanted: Mapping[str, int], timeout: float, fingerprint: bytes = b"") -> None:
    """Waits until so many workers of each role, of this spec if one is named, are in the stores' cluster maps."""
    until = time.monotonic() + timeout
    while True:
        known: dict[str, int] = dict.fromkeys(wanted, 0)
        for address in stores:
            with suppress(CacheStoreError), RemoteStore(address) as store:
                for role in wanted:
                    members = store.members(role)[1]
                    known[role] += sum(member.fingerprint == fingerprint or not fingerprint for member in members)
        if all(known[role] >= count for role, count in wanted.items()):
            return
        if time.monotonic() > until:
            raise Unavailable(f"workers are missing from the cluster map after {timeout:g} s: {known} of {wanted}")
        time.sleep(POLL_SECONDS)


def remove_workers(drain: float) -> None:
    """Takes all workers down, and Serve with them unless it serves others. Requests have `drain` seconds to end."""
    from ray import serve

    applications = set(serve.status().applications)
    ours = {name for name in applications if name.startswith(APPLICATION)}
    _delete(serve, ours, drain)
    if ours == applications:
        serve.shutdown()


def kill_worker(runtime: Runtime, application: str, role: str, name: str) -> None:
    """Kills the process of the worker that the cluster map calls `name`; Serve starts another."""
    replica = f"{REPLICA}::{application}#{role}#{name.removeprefix(f'{role}-')}"
    try:
        runtime.ray.kill(runtime.ray.get_actor(replica, namespace="serve"))
    except ValueError as error:
        raise Unavailable(f"{name} is not there to be killed") from error


def _deployment(serve: Any, role: str, settings: ClusterSettings) -> Any:
    scaled = autoscaling(settings, role)
    return serve.deployment(
        name=role,
        **({"num_replicas": settings.replicas()[role]} if scaled is None else {"autoscaling_config": scaled}),
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=settings.drain + CLOSE_SECONDS,
        graceful_shutdown_wait_loop_s=POLL_SECONDS,
    )(Replica)


def _await_running(serve: Any, names: Mapping[str, str], settings: ClusterSettings) -> None:
    until = time.monotonic() + settings.start_timeout
    waiting = dict(names)
    while True:
        applications = serve.status().applications
        for role, name in list(waiting.items()):
            state = applications[name]
            if state.status == "RUNNING":
                del waiting[role]
            elif state.status == "DEPLOY_FAILED":
                raise cause(messages(state), f"the {role} workers did not start")
        if not waiting:
            return
        if time.monotonic() > until:
            asked = {role: settings.replicas()[role] for role in waiting}
            raise Unavailable(
                f"workers did not start within cluster.start_timeout = {settings.start_timeout:g} s: "
                f"{' and '.join(f'{count} {role}' for role, count in asked.items())}, each asking for "
                f"{settings.num_cpus:g} CPUs and {settings.num_gpus:g} GPUs; {_has()}"
            )
        time.sleep(STATUS_SECONDS)


def _delete(serve: Any, names: Set[str], drain: float) -> None:
    # all at once: one after the other takes a round of Serve's control loop each
    for name in names:
        serve.delete(name, _blocking=False)
    until = time.monotonic() + drain + CLOSE_SECONDS + STOP_SECONDS
    while names & set(serve.status().applications) and time.monotonic() < until:
        _forget_unplaced(names)
        time.sleep(STATUS_SECONDS)


def _forget_unplaced(names: Set[str]) -> None:
    """Ends replicas that never got a process: they have no requests, and Serve would give them the time to drain."""
    import ray
    from ray._private import state

    # no public way finds them without Ray's dashboard: list_named_actors names only those that run
    for actor in state.actors(actor_state_name="PENDING_CREATION").values():
        prefix, _, replica = actor["Name"].partition("::")
        if prefix == REPLICA and replica.partition("#")[0] in names:
            with suppress(ValueError):
                ray.kill(ray.get_actor(actor["Name"], namespace="serve"))


def messages(state: Any) -> str:
    """What Serve says of an application and its deployments."""
    return "\n".join([state.message, *(deployment.message for deployment in state.deployments.values())])


def _has() -> str:
    """What the cluster has and has left."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    have = [f"{total.get(name, 0):g} {name}s ({free.get(name, 0):g} free)" for name in ("CPU", "GPU")]
    return f"the cluster has {' and '.join(have)}"
