"""LMCache reading from Redis, for `store.py`; runs in an environment of its own (see README.md here).

    python lmcache_redis.py PORT CHUNKS BYTES

stores CHUNKS chunks of BYTES bytes (256 tokens of bfloat16 KV) in the Redis at PORT of loopback through LMCache's
engine, says so with a line of JSON, and then answers every line on standard input by retrieving all of them and a
line of JSON with the seconds it took. As in a serving engine, a lookup pins the chunks before; its time does not count.
"""

import json
import sys
import time
import uuid

import redis
import torch
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.gpu_connector.gpu_connectors import GPUConnectorInterface
from lmcache.v1.metadata import LMCacheMetadata

TOKENS, HEADS, HEAD_DIM, ITEM_BYTES = 256, 8, 128, 2
KEYS_OF_CHUNK = 2
"""LMCache keeps the bytes of a chunk and what describes them apart."""


class Chunks(GPUConnectorInterface):
    """Stands where a device's connector does: one copy a chunk, between the engine's memory and a tensor of ours."""

    def __init__(self, shape, count):
        self.shape = shape
        self.source = torch.randint(-9999, 9999, (count, *shape), dtype=torch.int16).view(torch.bfloat16)
        self.target = torch.zeros_like(self.source)

    def from_gpu(self, memory_obj, start, end, **kwargs):
        memory_obj.tensor.copy_(self.source[start // TOKENS])

    def to_gpu(self, memory_obj, start, end, **kwargs):
        self.target[start // TOKENS].copy_(memory_obj.tensor)

    def batched_from_gpu(self, memory_objs, starts, ends, **kwargs):
        for memory_obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.from_gpu(memory_obj, start, end)

    def batched_to_gpu(self, memory_objs=None, starts=None, ends=None, **kwargs):
        for memory_obj, start, end in zip(memory_objs, starts, ends, strict=True):
            self.to_gpu(memory_obj, start, end)

    def get_shape(self, num_tokens):
        return torch.Size(self.shape)


def engine_for(port, chunks, layers):
    """An engine without memory of its own to hit in, whose chunks lie in Redis."""
    shape = (2, layers, TOKENS, HEADS * HEAD_DIM)
    connector = Chunks(shape, chunks)
    nbytes = connector.source.nbytes
    config = LMCacheEngineConfig.from_defaults(
        chunk_size=TOKENS, local_cpu=False, max_local_cpu_size=2.5 * nbytes / (1 << 30),
        remote_url=f"redis://127.0.0.1:{port}", remote_serde="naive",
    )  # fmt: skip
    metadata = LMCacheMetadata(
        model_name="bench", world_size=1, local_world_size=1, worker_id=0, local_worker_id=0,
        kv_dtype=torch.bfloat16, kv_shape=(layers, 2, TOKENS, HEADS, HEAD_DIM),
    )  # fmt: skip
    engine = LMCacheEngineBuilder.get_or_create(
        uuid.uuid4().hex, config, metadata, connector, lambda tensor, source: None, lambda value, source: value
    )
    engine.post_init()
    return engine, connector


def retrieve(engine, tokens):
    """Reads all chunks; the seconds that took."""
    request = uuid.uuid4().hex
    assert engine.lookup(tokens=tokens, pin=True, lookup_id=request) == len(tokens)
    begun = time.perf_counter()
    found = engine.retrieve(tokens=tokens, req_id=request)
    seconds = time.perf_counter() - begun
    engine.lookup_unpin(request)
    assert int(found.sum()) == len(tokens)
    return seconds


def main():
    """Serves until standard input ends."""
    port, chunks, nbytes = map(int, sys.argv[1:])
    # what LMCache prints must not stand among the answers
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    engine, connector = engine_for(port, chunks, nbytes // (2 * TOKENS * HEADS * HEAD_DIM * ITEM_BYTES))
    tokens = list(range(TOKENS * chunks))
    client = redis.Redis(port=port)
    before = client.dbsize()
    engine.store(tokens=tokens)
    while client.dbsize() < before + KEYS_OF_CHUNK * chunks:
        time.sleep(0.01)
    seconds = retrieve(engine, tokens)
    assert torch.equal(connector.target.view(torch.int16), connector.source.view(torch.int16))
    print(json.dumps({"seconds": seconds}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": retrieve(engine, tokens)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
