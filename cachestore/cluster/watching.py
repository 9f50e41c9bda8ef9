"""Watches the nodes of Ray: one that joins and asks for a store gets one, one that leaves hands over what it holds."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from cachestore.cluster import stores
from cachestore.cluster.runtime import NAMESPACE
from cachestore.cluster.settings import ClusterSettings
from cachestore.errors import ConfigError

NAME = "stores"
"""Under which the actor is found."""

LEAVE_SECONDS = 300.0
"""How long a node that leaves may hand over, if Ray does not say when it goes."""

SPARE_SECONDS = 2.0
"""What is left of the time until it goes for the end itself."""

ANSWER_SECONDS = 5.0
"""How long an answer that is there may take to be read."""

PATIENCE = (5.0, 120.0)
"""Seconds until a store that did not start is tried again, at first and at last."""

log = logging.getLogger(__name__)


@dataclass
class _Try:
    """When a store may be begun again on a node, and how long to wait then."""

    at: float = 0.0
    wait: float = PATIENCE[0]


@dataclass(eq=False)
class StoreWatch:
    """An actor, one for the cluster; what it knows it learns anew from Ray when it is started again."""

    tables: Mapping[str, Any]
    settings: ClusterSettings
    _tries: dict[str, _Try] = field(default_factory=dict)
    _drains: dict[str, Any] = field(default_factory=dict)
    """The last call to each store whose node leaves."""
    _said: str = ""
    _over: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        Thread(target=self._watch, name="cachestore-watch", daemon=True).start()

    def __repr__(self) -> str:
        return f"stores, watched every {self.settings.watch:g} s"

    def close(self) -> None:
        """Watches no more."""
        self._over.set()

    def _watch(self) -> None:
        import ray

        while not self._over.wait(self.settings.watch):
            try:
                self._look(ray)
            except Exception as error:  # Ray's control plane may be away; the stores serve meanwhile
                log.warning("the nodes cannot be watched now: %s", error)

    def _look(self, ray: Any) -> None:
        nodes = [node for node in stores.alive(ray) if stores.asks(node, self.settings)]
        leaving = _leaving(ray)
        actors = stores.found(ray)
        self._drains = {node_id: drain for node_id, drain in self._drains.items() if node_id in leaving}
        for node_id, until in leaving.items():
            if node_id in actors and self._drain_again(ray, node_id):
                seconds = max(1.0, until - time.time() - SPARE_SECONDS) if until else LEAVE_SECONDS
                self._drains[node_id] = actors[node_id].drain.remote(seconds)
        missing = [node for node in nodes if node["NodeID"] not in actors and node["NodeID"] not in leaving]
        missing = [node for node in missing if not stores.drained(node["NodeID"])]
        if missing and self._may(nodes):
            self._launch(ray, missing, nodes, actors)

    def _drain_again(self, ray: Any, node_id: str) -> bool:
        """Whether the store of a node that leaves is to be asked to drain: it was not yet, or did not hear of it."""
        asked = self._drains.get(node_id)
        if asked is None:
            log.warning("node %s leaves: its store hands over what it holds", node_id[:12])
            return True
        # it answers at once, and hands over in the background
        if not ray.wait([asked], timeout=0)[0]:
            return False
        try:
            ray.get(asked, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayError as error:
            log.warning("the store of node %s is asked again to hand over: %s", node_id[:12], error)
        # one that was started again since knows of nothing, and for any other one that is no more than a question
        return True

    def _may(self, nodes: list[stores.Node]) -> bool:
        """Whether this configuration is for several nodes; if not, says so once."""
        try:
            stores.refuse_embedded(self.tables, nodes)
            stores.refuse_loopback(self.tables, nodes)
        except ConfigError as error:
            if str(error) != self._said:
                self._said = str(error)
                log.error("nodes that join get no store: %s", error)
            return False
        return True

    def _launch(self, ray: Any, missing: list[stores.Node], nodes: list[stores.Node], actors: dict[str, Any]) -> None:
        now = time.monotonic()
        due = [node for node in missing if self._tries.setdefault(node["NodeID"], _Try()).at <= now]
        taken = stores.ports(ray, actors, nodes) if due else {}
        for node in due:
            again = self._tries[node["NodeID"]]
            again.at, again.wait = now + again.wait, min(PATIENCE[1], 2 * again.wait)
            log.info("node %s gets a store", node["NodeID"][:12])
            machine = taken.setdefault(node["NodeManagerAddress"], set())
            stores.launch(ray, self.tables, node, machine, patient=True)
        there = {node["NodeID"] for node in nodes}
        self._tries = {node_id: again for node_id, again in self._tries.items() if node_id in there}


def start(ray: Any, tables: Mapping[str, Any], settings: ClusterSettings) -> None:
    """Begins to watch, with what is configured now."""
    stop(ray)
    actor = (
        ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(StoreWatch)
        .options(name=NAME, namespace=NAMESPACE, lifetime="detached", max_concurrency=2)
        .remote(dict(tables), settings)
    )
    ray.get(actor.__ray_ready__.remote(), timeout=settings.start_timeout)


def stop(ray: Any) -> None:
    """Ends it, if it is there."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))


def _leaving(ray: Any) -> dict[str, float]:
    """The nodes that Ray is draining, and until when, in seconds since 1970; 0 if it does not say."""
    # no public way tells it; Serve looks there, too
    answered = ray._private.worker.global_worker.gcs_client.get_draining_nodes()
    return {node_id: milliseconds / 1000 for node_id, milliseconds in answered.items()}
