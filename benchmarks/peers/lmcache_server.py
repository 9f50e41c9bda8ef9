"""LMCache's server with shared memory, for `wire.py`; runs in an environment of its own (see README.md here).

    python lmcache_server.py COUNT CHUNKS

stores COUNT prompts of CHUNKS chunks of 4 MiB (256 tokens of bfloat16 KV), says so with a line of JSON, and then
answers every line on standard input, `read N`, by retrieving prompt N, lookup included, and a line of JSON with the
seconds that took.
"""

import json
import os
import subprocess
import sys
import time
import uuid

import torch
import zmq
from lmcache.v1.distributed.api import MemoryLayoutDesc
from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey, RegisterEngineDrivenContextPayload
from lmcache.v1.multiprocess.transfer_context import EngineDrivenContextMetadata, create_engine_driven_context
from lmcache.v1.multiprocess.transport.factory import RequestClientFactory
from mooncake_store import HOST, free_port, running, wait_for

TOKENS, LAYERS, WIDTH = 256, 4, 1024
MODEL, INSTANCE, PAGE = "bench", 1, 16
PATIENCE = 30.0


class Client:
    """One engine's way to the server, with memory for `chunks` chunks on either side."""

    def __init__(self, port, count, chunks):
        self.calls = RequestClientFactory.create(f"tcp://{HOST}:{port}", context=zmq.Context())
        engine = RegisterEngineDrivenContextPayload(
            instance_id=INSTANCE, model_name=MODEL, world_size=1, block_size=PAGE, num_layers=LAYERS,
            hidden_dim_size=WIDTH, dtype_str="bfloat16", use_mla=False, num_physical_slots=TOKENS,
        )  # fmt: skip
        answer = self.calls.register_kv_cache_engine_driven_context(engine).result(timeout=PATIENCE)
        layout = MemoryLayoutDesc(shapes=[torch.Size([2, LAYERS, TOKENS, WIDTH])], dtypes=[torch.bfloat16])
        metadata = EngineDrivenContextMetadata(layout_desc=layout, block_size=PAGE, use_mla=False)
        self.memory = create_engine_driven_context(metadata, self.calls, PATIENCE, answer.shm_name, answer.pool_size)
        # each chunk in one piece, the best case for a copy
        shape = (count, chunks, 2, LAYERS, TOKENS, WIDTH)
        self.source = torch.randint(-9999, 9999, shape, dtype=torch.int16).view(torch.bfloat16)
        self.target = torch.zeros_like(self.source)
        self.chunks = chunks

    def key(self, number, request, worker):
        tokens = tuple(range(number << 20, (number << 20) + self.chunks * TOKENS))
        return IPCCacheServerKey(
            model_name=MODEL, world_size=1, worker_id=worker, token_ids=tokens, start=0, end=len(tokens),
            request_id=request, num_kv_readers=1,
        )  # fmt: skip

    def write(self, number):
        """Stores a prompt."""
        key = self.key(number, uuid.uuid4().hex, 0)
        prepared = self.memory.prepare_store(key, INSTANCE)
        assert prepared is not None, "the server does not share its memory"
        for chunk, index in zip(*prepared, strict=True):
            chunk.copy_(self.source[number, index])
        assert self.memory.commit_store(key, INSTANCE, [])
        self.calls.end_session(key.request_id).result(timeout=PATIENCE)

    def read(self, number):
        """Retrieves a prompt; the seconds that took."""
        request = uuid.uuid4().hex
        begun = time.perf_counter()
        self.calls.lookup(self.key(number, request, None), 1).result(timeout=PATIENCE)
        assert self.calls.wait_prefetch_status(request, PATIENCE).result(timeout=PATIENCE) == self.chunks
        key = self.key(number, request, 0)
        chunks = self.memory.prepare_retrieve(key, INSTANCE)
        for target, chunk in zip(self.target[number], chunks, strict=True):
            target.copy_(chunk)
        self.memory.commit_retrieve(key, INSTANCE)
        seconds = time.perf_counter() - begun
        self.calls.end_session(request).result(timeout=PATIENCE)
        return seconds


def main():
    """Serves until standard input ends."""
    count, chunks = map(int, sys.argv[1:])
    # what LMCache prints must not stand among the answers
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    port, http = free_port(), free_port()
    gigabytes = max(2.0, 1.5 * count * chunks / 256)
    settings = {
        "host": HOST, "port": port, "http-host": HOST, "http-port": http, "l1-size-gb": gigabytes,
        "supported-transfer-mode": "auto", "chunk-size": TOKENS, "eviction-policy": "LRU",
        "shm-name": f"cachestore-bench-{os.getpid()}",
    }  # fmt: skip
    command = [sys.executable, "-m", "lmcache.cli.main", "server", "--disable-observability"]
    command += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_for(http)
        client = Client(port, count, chunks)
        for number in range(count):
            client.write(number)
            client.read(number)
        assert torch.equal(client.target.view(torch.int16), client.source.view(torch.int16))
        print(json.dumps({"seconds": 0}), file=answers, flush=True)
        for line in sys.stdin:
            word, number = line.split()
            assert word == "read"
            print(json.dumps({"seconds": client.read(int(number))}), file=answers, flush=True)
    # threads of the client's do not end
    os._exit(0)


if __name__ == "__main__":
    main()
