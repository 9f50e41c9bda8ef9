"""A provisional read whose connection breaks when its lease is on the way to it."""

from collections.abc import Callable

from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks
from cachestore.testing.provisional import right
from tests.faults.injections import DOWN, BlackHole
from tests.faults.proxy import Proxy


def test_it_goes_on_beside_the_lease_that_it_was_not_told_of(
    tiered: TieredStore, server: CacheStoreServer, eventually: Callable[[Callable[[], object]], None]
) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    store = tiered.namespace("default")
    with Proxy(server.address) as proxy, RemoteStore(proxy.address, transports=("stream",)) as remote:
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            write_blocks(put, blocks)
            reading = remote.read(keys, wait=10.0, provisional=True)
            assert right(next(reading.planes()), blocks)
            with proxy.inject(BlackHole(DOWN)):
                put.commit()
                eventually(lambda: total(store.stats(), "leases_open") == 1)
                # all else that the store sends is on its way by then, and its call is over
                eventually(lambda: server.calls.used == 0)
            assert proxy.reset()
        with reading:
            found = [block for block, _ in reading]
        assert len(found) == 2 and all(map(same, found, blocks))
        # that one ends with its time
        assert total(store.stats(), "leases_open") == 1 and total(store.stats(), "read_hits") == 2
