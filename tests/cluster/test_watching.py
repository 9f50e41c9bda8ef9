"""The watch asks the store of a leaving node until it hears. Ray, which loses calls when it will, is a stand-in."""

from types import SimpleNamespace
from typing import Any

import pytest

from cachestore.cluster.host import actor_name
from cachestore.cluster.settings import ClusterSettings
from cachestore.cluster.watching import LEAVE_SECONDS, StoreWatch

NODE = "a" * 56


class Lost(Exception):
    """A call that did not arrive."""


class Ray:
    """Two nodes; that of the store leaves. `calls` says of each call what becomes of it, None while it is under way."""

    exceptions = SimpleNamespace(RayError=Lost)

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.asked: list[float] = []
        self.leaving = {NODE: 0}
        state = SimpleNamespace(get_draining_nodes=lambda: self.leaving)
        self._private = SimpleNamespace(worker=SimpleNamespace(global_worker=SimpleNamespace(gcs_client=state)))

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": NODE, "Alive": True, "Resources": {}}]

    def get_actor(self, name: str, namespace: str) -> Any:
        assert name == actor_name(NODE)
        return SimpleNamespace(drain=SimpleNamespace(remote=self._drain))

    def _drain(self, seconds: float) -> int:
        self.asked.append(seconds)
        self.calls.append(None)
        return len(self.calls) - 1

    def wait(self, calls: list[int], timeout: float) -> tuple[list[int], list[int]]:
        done = [call for call in calls if self.calls[call] is not None]
        return done, [call for call in calls if call not in done]

    def get(self, call: int, timeout: float) -> Any:
        if isinstance(self.calls[call], Exception):
            raise self.calls[call]
        return self.calls[call]


@pytest.fixture
def watch() -> Any:
    watch = StoreWatch({}, ClusterSettings(watch=3600.0))
    yield watch
    watch.close()


def test_a_store_that_did_not_hear_is_asked_again(watch: StoreWatch) -> None:
    ray = Ray()
    watch._look(ray)
    assert ray.asked == [LEAVE_SECONDS]
    # while it may hear yet nobody calls again
    watch._look(ray)
    assert len(ray.asked) == 1
    ray.calls[0] = Lost("the actor is restarting")
    watch._look(ray)
    watch._look(ray)
    assert len(ray.asked) == 2
    # Ray may start it anew at any moment, and then it knows of nothing
    ray.calls[1] = {"state": "draining"}
    watch._look(ray)
    assert len(ray.asked) == 3


def test_a_node_that_stays_after_all_is_forgotten(watch: StoreWatch) -> None:
    ray = Ray()
    watch._look(ray)
    ray.leaving = {}
    watch._look(ray)
    ray.leaving = {NODE: 0}
    watch._look(ray)
    assert len(ray.asked) == 2
