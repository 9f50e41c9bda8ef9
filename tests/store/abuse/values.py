"""What the tests of abuse put and read."""

from cachestore.block import Block
from cachestore.hashing import Chain
from cachestore.store.local import LocalStore
from cachestore.testing import small_spec

SPEC = small_spec()


def read(store: LocalStore, keys: Chain) -> list[Block]:
    with store.read(keys) as reading:
        return [block for block, _ in reading]
