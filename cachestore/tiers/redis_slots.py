"""Which hash slot of a Redis Cluster a name is in (redis.io/docs/reference/cluster-spec).

Redis' own client knows it as well, but importing that takes a quarter of what every command takes to start.
"""

from binascii import crc_hqx

SLOTS = 16384


def slot_of(name: bytes) -> int:
    """The slot of the whole name, or of what stands between its first brace and the next closing one."""
    _, _, rest = name.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return crc_hqx(tag if tag and closed else name, 0) % SLOTS
