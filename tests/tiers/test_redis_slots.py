"""Names are looked for where Redis' own client looks for them."""

from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from cachestore.tiers.redis_slots import SLOTS, slot_of


@given(st.lists(st.sampled_from([b"{", b"}", b"a", b"\xff", b"bc"])).map(b"".join))
@example(b"")
@example(b"{}a")
@example(b"}a{b}c")
@example(b"a{b{c}d}e")
def test_as_redis_own_client_has_it(name: bytes) -> None:
    assert slot_of(name) == key_slot(name)
    assert SLOTS == REDIS_CLUSTER_HASH_SLOTS
