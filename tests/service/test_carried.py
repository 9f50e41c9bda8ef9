"""What each transport carried, by real clients of a real server: every byte is counted once, for whoever carried it."""

from pathlib import Path

import pytest

from cachestore.block import Part
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.transports import ALL
from cachestore.store.base import put_blocks
from cachestore.store.compose import compose
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

SPEC = small_spec()


def carried(store: RemoteStore, name: str) -> dict[str, int]:
    """One figure by transport."""
    return {figure.label("transport"): figure.value for figure in store.stats() if figure.name == f"transport_{name}"}


@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_what_went_by_which_adds_up(server: CacheStoreServer, codec: str) -> None:
    expected: dict[str, int] = {}
    for number, transport in enumerate(ALL, 1):
        keys, blocks = random_prompt(SPEC, 2 * number, seed=number)
        with RemoteStore(server.address, codec=codec, transports=(transport,)) as store:
            before = total(store.stats(), "tier_bytes", tier="cpu")
            # there already: nothing is carried the second time
            for _ in range(2):
                put_blocks(store, keys.fingerprint, blocks)
            for _ in range(3):
                with store.read(keys) as reading:
                    assert len(list(reading)) == len(blocks)
            expected[transport] = total(store.stats(), "tier_bytes", tier="cpu") - before
    with RemoteStore(server.address) as store:
        figures = store.stats()
        assert carried(store, "put_blocks") == {name: 2 * number for number, name in enumerate(ALL, 1)}
        assert carried(store, "read_blocks") == {name: 6 * number for number, name in enumerate(ALL, 1)}
        assert carried(store, "put_bytes") == expected
        assert carried(store, "read_bytes") == {name: 3 * nbytes for name, nbytes in expected.items()}
    assert total(figures, "transport_put_blocks") == total(figures, "put_stored")
    assert total(figures, "transport_read_blocks") == total(figures, "read_hits")


def test_a_part_is_what_is_sent_of_it(server: CacheStoreServer) -> None:
    """Over shared memory its reader has the whole block in front of it, and takes what it wants."""
    keys, blocks = random_prompt(SPEC, 1)
    sent = {}
    for transport in ALL:
        with RemoteStore(server.address, transports=(transport,)) as store:
            put_blocks(store, keys.fingerprint, blocks)
            with store.read(keys, part=Part(slots=range(1))) as reading:
                assert len(list(reading)) == 1
            sent[transport] = carried(store, "read_bytes")[transport]
            whole = total(store.stats(), "tier_bytes", tier="cpu")
    assert sent["bulk"] == sent["stream"] < whole == sent["shared"]


def test_what_another_transport_goes_on_with_is_counted_for_that(tmp_path: Path) -> None:
    """Blocks that are not in memory: shared memory has only those in front of them."""
    disk = {"name": "disk", "path": str(tmp_path / "disk"), "capacity": "64MiB"}
    tables = {"tiers": [{"name": "cpu", "capacity": "16MiB"}, disk], "store": {"write": "through"}}
    keys, blocks = random_prompt(SPEC, 5)
    with compose(tables) as tiered, CacheStoreServer(tiered, ServiceSettings(port=0)) as server:
        with RemoteStore(server.address) as store:
            put_blocks(store, keys.fingerprint, blocks)
            tiered.settle()
            store.clear("cpu")
            with store.read(Chain(keys.fingerprint, keys.keys[:2])) as reading:
                assert len(list(reading)) == 2
            tiered.settle()
            before = carried(store, "read_blocks")
            assert store.lookup(keys).runs[0][:1] == (2,)
            with store.read(keys) as reading:
                assert len(list(reading)) == 5
            after = carried(store, "read_blocks")
            assert total(store.stats(), "transport_read_blocks") == total(store.stats(), "read_hits")
    assert {name: after[name] - before.get(name, 0) for name in after} == {"shared": 2, "bulk": 3}


@pytest.mark.parametrize("transport", ALL)
def test_only_what_was_stored_counts(server: CacheStoreServer, transport: str) -> None:
    """Not blocks that were given up, or not whole."""
    keys, blocks = random_prompt(SPEC, 3)
    with RemoteStore(server.address, transports=(transport,)) as store:
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            write_blocks(put, blocks[:1])
            put.write(1, 0, blocks[1].data[0])
            put.commit([0, 1])
        assert carried(store, "put_blocks") == {transport: 1}
        assert carried(store, "put_bytes") == {transport: total(store.stats(), "tier_bytes", tier="cpu")}
