"""Joins a Ray cluster, or starts one of our own that ends with this process."""

import logging
import os
import secrets
from contextlib import suppress
from typing import Any, Self

from cachestore.cluster.reach import REFUSED, check
from cachestore.cluster.settings import ClusterSettings
from cachestore.errors import ConfigError, Unavailable

NAMESPACE = "cachestore"
OBJECT_STORE_BYTES = 80 << 20
"""The least that Ray takes: nothing of ours lives in its object store."""

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
OUTAGE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Names for how many seconds a node of Ray looks for its control plane before it ends itself, and us with it."""

RAYS_OUTAGE = 60.0
"""Unless it is set. A head that is moved to another machine is away for longer."""

OUTAGE_SECONDS = "600"
"""In a Ray of our own, and what to write where it is not."""

_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray replaces 127.0.0.1 by the machine's own address and then listens on all of them, unless it is told, by the
switch meant for desktops, that no other machine will join."""


def own_environment() -> dict[str, str]:
    """What a Ray of our own is started with, on loopback."""
    # a token for this Ray alone: nobody has to read or write one in the home directory
    return {**_ENVIRONMENT, **_LOOPBACK, OUTAGE: OUTAGE_SECONDS, "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def outage() -> float:
    """Seconds for which the node of Ray that this process is on looks for its control plane."""
    with suppress(ValueError):
        return float(os.environ.get(OUTAGE, RAYS_OUTAGE))
    return RAYS_OUTAGE


class Runtime:
    """This process's connection to Ray."""

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings

    @property
    def ray(self) -> Any:
        """The module, connected."""
        import ray

        return ray

    def open(self) -> None:
        """Connects. Unavailable or ConfigError says what to do."""
        for name, value in (_ENVIRONMENT if self.settings.address else own_environment()).items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise ConfigError("ray is not installed; install it with: pip install 'kv-cachestore[ray]'") from error
        # what the raylet reports of its own would be printed among our output, also with log_to_driver off; there is no
        # setting for that, and what concerns the user comes as an error
        ray._private.worker._worker_logs_enabled = False
        # Serve sets its logger's level anew with every start; a filter stays
        logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.ERROR)
        own = {} if self.settings.address else self._own()
        address = self.settings.address
        check(address)
        try:
            ray.init(address=address or "local", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR", **own)
        except ray.exceptions.AuthenticationError as error:
            raise ConfigError(f"cluster.address = {address!r}: {REFUSED}") from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = f"reach Ray at cluster.address = {address!r}" if address else "start Ray"
            raise Unavailable(f"cannot {what}: {error}") from error
        except BaseException:
            # interrupted half way
            ray.shutdown()
            raise

    def close(self) -> None:
        """Leaves Ray; a Ray of our own ends. Closing twice is allowed."""
        self.ray.shutdown()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _own(self) -> dict[str, Any]:
        """The arguments that start a Ray of our own."""
        workers = sum(self.settings.most().values())
        return {
            # what Ray counts are promises, not cores: a trial on a small machine still gets all its workers
            "num_cpus": max(os.cpu_count() or 1, round(workers * self.settings.num_cpus + 0.5)),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
