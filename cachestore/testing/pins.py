"""What a store promises to those who pin."""

import pytest

from cachestore.errors import InvalidArgument
from cachestore.metrics import total
from cachestore.store.base import Store
from cachestore.testing.suite import StoreSuite


class PinTests(StoreSuite):
    """Pin, unpin, and what is pinned."""

    def test_a_ready_prefix_is_pinned_and_unpinned(self, store: Store) -> None:
        keys, _ = self.stored(store, 4)
        assert store.pin(keys.first(3), 60) == 3
        pins = store.pins()
        assert [pin.key for pin in pins] == sorted(keys.keys[:3])
        assert all(58 < pin.ttl <= 60 and pin.nbytes > 0 for pin in pins)
        assert total(store.stats(), "pins") == 3
        assert store.unpin(keys) == 3 and store.unpin(keys) == 0 and store.pins() == []

    def test_what_is_not_there_is_not_pinned(self, store: Store) -> None:
        keys, _ = self.blocks(3)
        assert store.pin(keys, 60) == 0 and store.pins() == []

    def test_a_deleted_block_is_gone_though_it_was_pinned(self, store: Store) -> None:
        keys, _ = self.stored(store, 2)
        assert store.pin(keys, 60) == 2 and store.delete(keys) == 2 and store.lookup(keys).ready == 0

    def test_a_pin_for_no_time_is_refused(self, store: Store) -> None:
        keys, _ = self.stored(store, 1)
        for ttl in (0.0, -1.0):
            with pytest.raises(InvalidArgument):
                store.pin(keys, ttl)
