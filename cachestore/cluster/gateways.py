"""The gateway of a cluster: an application of Ray Serve whose proxy listens where `[gateway]` says."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from cachestore.cluster.causes import cause
from cachestore.cluster.ports import free_port
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.workers import APPLICATION, POLL_SECONDS, Tell, messages
from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.registry import Catalogue

GATEWAY = Catalogue("gateway", {"settings": "gateway.settings:GatewaySettings", "replica": "gateway.replica:Ingress"})
NAME = f"{APPLICATION}-gateway"
SECTION = "gateway"


def start_proxy(tables: Mapping[str, Any]) -> str:
    """Starts Serve with a proxy for the gateway, on the node this process is connected to; where it listens.

    Empty without the section. Where Serve runs already its proxy stays as it is: ConfigError if it is another.
    """
    if SECTION not in tables:
        return ""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    settings = build(GATEWAY.load("settings"), tables[SECTION], SECTION)
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    options = {"host": host, "port": settings.port or free_port(), "request_timeout_s": None}
    try:
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config={"log_level": "ERROR"})
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"gateway.host = {host!r} and gateway.port = {options['port']} cannot be had: {error}"
        ) from error
    # a Serve that ran already keeps its own, and only says so in its log
    found = _get_global_client().http_config
    if found.host != host or settings.port not in (0, found.port):
        raise ConfigError(
            f"gateway.host and gateway.port: Ray Serve runs already and listens on {found.host}:{found.port}; "
            "configure that, or take it down first"
        )
    return f"http://{f'[{host}]' if ':' in host else host}:{found.port}"


def add_gateway(tables: Mapping[str, Any], settings: ClusterSettings, stores: Iterable[str], tell: Tell) -> None:
    """Starts the gateway before these stores; returns when it answers."""
    from ray import serve

    tell("starting the gateway")
    most = build(GATEWAY.load("settings"), tables[SECTION], SECTION).max_waiting
    deployment = serve.deployment(
        name=SECTION,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        # the gateway itself refuses what is too much, in OpenAI's words; Serve's queue is for the moment between
        max_ongoing_requests=2 * most,
        max_queued_requests=most,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=POLL_SECONDS,
    )(serve.ingress()(GATEWAY.load("replica")))
    target = serve.RunTarget(deployment.bind(dict(tables), list(stores)), name=NAME, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    until = time.monotonic() + settings.start_timeout
    while (state := serve.status().applications[NAME]).status != "RUNNING":
        if state.status == "DEPLOY_FAILED":
            raise cause(messages(state), "the gateway did not start")
        if time.monotonic() > until:
            raise Unavailable(f"the gateway did not start within cluster.start_timeout = {settings.start_timeout:g} s")
        time.sleep(POLL_SECONDS)
