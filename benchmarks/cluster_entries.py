"""What entries of a directory take in a Redis: as many for each block as a simulated cluster ended with."""

from hashlib import sha256
from random import Random

import redis
from store_redis import server

from cachestore.directory.redis_entries import entry_name

SAMPLE = 50_000
"""Blocks that are written; more would only take longer."""


def redis_bytes(holders: list[int]) -> float:
    """Bytes of Redis for each of the blocks that have so many holders."""
    sample = Random(0).sample(holders, min(SAMPLE, len(holders)))
    namespace = sha256(b"namespace").digest()
    with server() as port, redis.Redis(port=port) as client:
        before = client.info("memory")["used_memory"]
        pipeline = client.pipeline(transaction=False)
        for block, count in enumerate(sample):
            key = sha256(block.to_bytes(8, "big")).digest()
            for holder in range(count):
                pipeline.append(entry_name(namespace, key), b"+" + holder.to_bytes(8, "big"))
            if block % 1000 == 0:
                pipeline.execute()
        pipeline.execute()
        return float(client.info("memory")["used_memory"] - before) / len(sample)
