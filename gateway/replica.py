"""The gateway as a deployment of Ray Serve: its proxies take the connections, this answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from cachestore.cluster.host import open_many_files
from cachestore.cluster.replica import stay_on_loopback
from gateway.app import create_app
from gateway.gateway import Gateway


class Ingress:
    """A gateway of the configuration `tables` before the stores at `stores`. Serve opens and closes it."""

    def __init__(self, tables: Mapping[str, Any], stores: Sequence[str]) -> None:
        import ray

        open_many_files()
        stay_on_loopback(ray.util.get_node_ip_address())
        self._gateway = Gateway.of(tables, stores)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._gateway)
