"""The store of one node as an actor of Ray."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cachestore.cluster.host import StoreHost, keep_what_is
from cachestore.cluster.runtime import outage

DRAINED = b"cachestore:drained:"
"""In Ray's own key-value store, before the id of a node: it was drained, and gets no store until `up` is called."""

log = logging.getLogger(__name__)


class StoreActor(StoreHost):
    """A `StoreHost` that Ray restarts: whatever Redis does then, it serves what it comes to hold.

    One that was drained ends for good. `patient` says that nobody waits for it to start.
    """

    def __init__(self, tables: Mapping[str, Any], node_id: str, port: int, machine: str, patient: bool) -> None:
        import ray

        self._node_id = node_id
        again = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(tables, node_id[:12], port, machine, self._drained, patient=patient or again)
        self.operator.outage = outage()
        keep_what_is()

    def __repr__(self) -> str:
        # Ray shows it in its lists, its dashboard and its logs, and asks for that of an actor that did not start, too:
        # an error here would then hide why
        return f"store {self._node_id[:12]} at {self._address or 'no address yet'}"

    def drain(self, seconds: float) -> dict[str, Any]:
        """Leaves, since the node goes; how far it is."""
        return asdict(self.operator.drain(seconds, force=True))

    def _drained(self) -> None:
        import ray
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(DRAINED + self._node_id.encode(), b"1", overwrite=True)
        try:
            self.close()
        finally:
            log.info("this store was drained, and ends")
            ray.kill(ray.get_runtime_context().current_actor)
