"""What the suites of a store share: the fixture, stored blocks, and the check after every test."""

from collections.abc import Iterator

import pytest

from cachestore.block import Block, BlockSpec
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Lease, Loaded, PutStatus, Store, put_blocks
from cachestore.testing.blocks import random_prompt, small_spec
from cachestore.testing.sums import check_sums


class StoreSuite:
    """What the tests of every suite of a store start from. Subclasses give the fixture `store`."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        raise NotImplementedError("give the suite a fixture `store` that yields an open, empty store")

    @pytest.fixture(autouse=True)
    def _everything_adds_up_and_ends(self, store: Store) -> Iterator[None]:
        yield
        figures = store.stats()
        check_sums(figures)
        for name in ("read_open", "put_open", "leases_open", "puts_open"):
            assert total(figures, name) == 0, name

    spec = small_spec()

    def blocks(self, count: int, seed: int = 1, spec: BlockSpec | None = None) -> tuple[Chain, list[Block]]:
        """`count` blocks of a prompt of their own."""
        return random_prompt(spec or self.spec, count, seed)

    def stored(self, store: Store, count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
        """`count` blocks that `store` has."""
        keys, blocks = self.blocks(count, seed)
        answers = put_blocks(store, keys.fingerprint, blocks)
        assert [answer.status for answer in answers] == [PutStatus.STORED] * count
        return keys, blocks

    def read(self, store: Store, keys: Chain, lease: Lease | None = None, wait: float = 0.0) -> list[Loaded]:
        """Everything that a read of these keys gives."""
        with store.read(keys, lease=lease, wait=wait) as reading:
            return list(reading)
