"""What Serve hears of a worker: one that hangs is replaced as one that is gone."""

from types import SimpleNamespace

import pytest

from cachestore.cluster.replica import Replica
from cachestore.errors import Unavailable


@pytest.mark.parametrize(("address", "healthy"), [("127.0.0.1:1", False), ("", True)])
def test_a_worker_that_hangs_or_does_not_listen_is_not_well(address: str, healthy: bool) -> None:
    replica = Replica.__new__(Replica)
    replica._server = SimpleNamespace(address=address, healthy=healthy, close=lambda grace: None)
    replica._drain = 0.0
    with pytest.raises(Unavailable):
        replica.check_health()


def test_a_worker_whose_loop_goes_on_is() -> None:
    replica = Replica.__new__(Replica)
    replica._server = SimpleNamespace(address="127.0.0.1:1", healthy=True, close=lambda grace: None)
    replica._drain = 0.0
    replica.check_health()
