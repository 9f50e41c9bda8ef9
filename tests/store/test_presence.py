"""What is in memory is told to whoever wants to know, and can be said again as a whole."""

from collections.abc import Callable

from cachestore.deadline import Deadline
from cachestore.directory.memory import Board, MemoryDirectory
from cachestore.hashing import namespace_id
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, small_spec

KEYS, BLOCKS = random_prompt(small_spec(), 4)
A = namespace_id("a")


def test_what_comes_and_leaves_is_told_and_what_was_there_is_held(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    directory = MemoryDirectory(Board())

    def told() -> list[bool]:
        return [bool(where.holders) for where in directory.lookup(A, KEYS.keys, Deadline.after(1.0))]

    put_blocks(store, KEYS.fingerprint, BLOCKS[:1])
    directory.join("one", "here:1", tiered.present)
    tiered.tell(directory)
    assert told() == [True, False, False, False]
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    assert told() == [True] * 4
    assert set(tiered.present) == {(A, key) for key in KEYS.keys} and len(tiered.present) == 4
    store.delete(KEYS)
    assert told() == [False] * 4
    assert (A, KEYS.keys[0]) not in tiered.present and len(tiered.present) == 0
    tiered.stop_telling(directory)
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    assert told() == [False] * 4 and (A, KEYS.keys[0]) in tiered.present
