"""The gateway of a cluster: an application of Ray Serve whose proxies listen where `[gateway]` says.

On several machines it stands on another than the head, and every one that has a part of it or a worker listens: what
leads Ray may then be away, and its machine gone, while requests come in elsewhere.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cachestore.cluster.causes import cause
from cachestore.cluster.gateway_health import SERVING, certificate, health
from cachestore.cluster.ports import free_port
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.stores import Node, alive
from cachestore.cluster.workers import APPLICATION, CLOSE_SECONDS, POLL_SECONDS, STATUS_SECONDS, Tell, messages
from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.registry import Catalogue

GATEWAY = Catalogue(
    "gateway",
    {
        "settings": "gateway.settings:GatewaySettings",
        "tls": "gateway.tls:GatewayTls",
        "replica": "gateway.replica:Ingress",
    },
)
NAME = f"{APPLICATION}-gateway"
SECTION = "gateway"

HEAD = "node:__internal_head__"
"""The resource by which Ray marks the node that leads."""


def start_proxy(tables: Mapping[str, Any]) -> str:
    """Starts Serve with a proxy for the gateway on the head, on several machines on others, too; where they listen.

    Empty without the section. Where Serve runs already its proxy stays as it is: ConfigError if it is another.
    """
    if SECTION not in tables:
        return ""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    settings = build(GATEWAY.load("settings"), tables[SECTION], SECTION)
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    options = {"host": host, "port": settings.port or free_port(), "request_timeout_s": None, **_tls(settings)}
    location, _ = placed(alive(ray))
    try:
        serve.start(proxy_location=location, http_options=options, logging_config={"log_level": "ERROR"})
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"gateway.host = {host!r} and gateway.port = {options['port']} cannot be had: {error}"
        ) from error
    # a Serve that ran already keeps its own, and only says so in its log
    found = _get_global_client().http_config
    if found.host != host or settings.port not in (0, found.port) or bool(found.ssl_certfile) != settings.tls:
        raise ConfigError(
            f"gateway.host and gateway.port: Ray Serve runs already and listens on {found.host}:{found.port}, "
            f"{'with' if found.ssl_certfile else 'without'} TLS; configure that, or take it down first"
        )
    url: str = settings.url(found.port)
    return url


def placed(nodes: Sequence[Node]) -> tuple[str, dict[str, Any]]:
    """Where Serve is to listen, and what it is told of the gateway: it stands beside the head only if it has to."""
    heads = [node["NodeID"] for node in nodes if HEAD in node["Resources"]]
    if not heads or len({node["NodeManagerAddress"] for node in nodes}) < 2:
        # nodes of one machine would share the port
        return "HeadOnly", {}
    beside, head = ({"label_selector": {"ray.io/node-id": f"{sign}{heads[0]}"}} for sign in ("!", ""))
    return "EveryNode", {**beside, "fallback_strategy": [head]}


def _tls(settings: Any) -> dict[str, str]:
    """What Serve's proxy is told of TLS. ConfigError for files that it could not use: it says so only in its log."""
    if not settings.tls:
        return {}
    GATEWAY.load("tls")(settings).open()
    files = {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    # the proxy stands in another directory
    return {name: str(Path(path).expanduser().absolute()) for name, path in files.items()}


def add_gateway(tables: Mapping[str, Any], settings: ClusterSettings, stores: Iterable[str], tell: Tell) -> None:
    """Starts the gateway before these stores; returns when it answers."""
    begin_gateway(tables, settings, stores, tell)
    await_gateway(settings)


def begin_gateway(tables: Mapping[str, Any], settings: ClusterSettings, stores: Iterable[str], tell: Tell) -> None:
    """Starts it, and does not wait."""
    import ray
    from ray import serve
    from ray.serve.config import BackpressureConfig

    tell("starting the gateway")
    most = build(GATEWAY.load("settings"), tables[SECTION], SECTION).max_waiting
    deployment = serve.deployment(
        name=SECTION,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0, **placed(alive(ray))[1]},
        # the gateway itself refuses what is too much, in OpenAI's words; Serve's queue is for the moment between
        max_ongoing_requests=2 * most,
        max_queued_requests=most,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_timeout_s=settings.drain + CLOSE_SECONDS,
        graceful_shutdown_wait_loop_s=POLL_SECONDS,
    )(serve.ingress()(GATEWAY.load("replica")))
    target = serve.RunTarget(deployment.bind(dict(tables), list(stores)), name=NAME, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)


def await_gateway(settings: ClusterSettings) -> None:
    """Until it runs. The error it gave, or Unavailable if it takes too long."""
    from ray import serve

    until = time.monotonic() + settings.start_timeout
    while (state := serve.status().applications[NAME]).status != "RUNNING":
        if state.status == "DEPLOY_FAILED":
            raise cause(messages(state), "the gateway did not start")
        if time.monotonic() > until:
            raise Unavailable(f"the gateway did not start within cluster.start_timeout = {settings.start_timeout:g} s")
        time.sleep(STATUS_SECONDS)


def await_ready(url: str, tables: Mapping[str, Any], settings: ClusterSettings) -> None:
    """Until the gateway knows a decode worker; Unavailable if it takes too long."""
    until = time.monotonic() + settings.start_timeout
    while (said := health(url, certificate(tables), settings.start_timeout).said) != SERVING:
        if time.monotonic() > until:
            raise Unavailable(f"the gateway at {url} is not ready: {said}")
        time.sleep(POLL_SECONDS)
