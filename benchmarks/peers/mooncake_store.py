"""Mooncake Store over TCP or on its own host, for `wire.py`; runs in an environment of its own (see README.md here).

    python mooncake_store.py remote|checked|local COUNT BLOCKS BYTES

stores COUNT prompts of BLOCKS objects of BYTES bytes, says so with a line of JSON, and then answers every line on
standard input, `read N`, `write N` or `clear 0`, by moving prompt N and a line of JSON with the seconds that took.

`remote` and `checked`: the memory is another process's, objects go one by one (`get_into`, `put_from`); the checksum is
switched on by MOONCAKE_STORE_CHECKSUM. `local`: the client has the memory itself, a prompt goes in batches of 8.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

from mooncake.store import MooncakeDistributedStore

HOST = "127.0.0.1"
SEGMENT = 2 << 30
BUFFER = 256 << 20
BATCH = 8
PATIENCE = 20.0
DIES_WITH_PARENT = 1
MASTER = Path(sys.executable).parent / "mooncake_master"


def free_port():
    with socket.create_server((HOST, 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def running(command, **more):
    """A program that ends with this one, however this one ends."""
    prctl = ctypes.CDLL(None).prctl
    process = subprocess.Popen(command, preexec_fn=lambda: prctl(DIES_WITH_PARENT, signal.SIGKILL), **more)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(port):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens at port {port}")


@contextmanager
def cluster():
    """Mooncake's master with its metadata service; the addresses of both."""
    rpc, metadata, metrics = free_port(), free_port(), free_port()
    settings = {
        "rpc_address": HOST, "rpc_port": rpc, "enable_http_metadata_server": "true",
        "http_metadata_server_host": HOST, "http_metadata_server_port": metadata,
        "metrics_host": HOST, "metrics_port": metrics, "enable_metric_reporting": "false",
    }  # fmt: skip
    command = [str(MASTER), *(f"--{name}={value}" for name, value in settings.items())]
    with running(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_for(metadata)
        wait_for(rpc)
        yield f"http://{HOST}:{metadata}/metadata", f"{HOST}:{rpc}"


def member(metadata, master, segment, buffer):
    """A member of the cluster with so much memory for others' objects."""
    store = MooncakeDistributedStore()
    code = store.setup(f"{HOST}:{free_port()}", metadata, segment, buffer, "tcp", "", master)
    if code:
        raise RuntimeError(f"Mooncake's setup answers {code}")
    return store


def provide(metadata, master):
    """Gives memory to the cluster until the process is ended."""
    store = member(metadata, master, SEGMENT, 16 << 20)
    print("ready", flush=True)
    Event().wait()
    del store


def memory(nbytes):
    """Anonymous memory, and where it lies."""
    mapped = mmap.mmap(-1, nbytes)
    return mapped, ctypes.addressof(ctypes.c_char.from_buffer(mapped))


class Prompts:
    """COUNT prompts, where they come from and where they go, and the ways to move one."""

    def __init__(self, store, batched, count, blocks, nbytes):
        self.store, self.batched, self.blocks, self.nbytes = store, batched, blocks, nbytes
        self.source, self.source_at = memory(count * blocks * nbytes)
        self.target, self.target_at = memory(count * blocks * nbytes)
        for start in range(0, len(self.source), nbytes):
            self.source[start : start + nbytes] = os.urandom(nbytes)
        for at in (self.source_at, self.target_at):
            assert store.register_buffer(at, len(self.source)) == 0

    def objects(self, number, at):
        """Names of the objects of a prompt, and their places behind `at`."""
        numbers = range(number * self.blocks, (number + 1) * self.blocks)
        return [(f"block{index}", at + index * self.nbytes) for index in numbers]

    def read(self, number):
        self.move(self.objects(number, self.target_at), self.store.get_into, self.store.batch_get_into, self.nbytes)

    def write(self, number):
        self.move(self.objects(number, self.source_at), self.store.put_from, self.store.batch_put_from, 0)

    def clear(self, number):
        self.store.remove_all(True)

    def move(self, objects, single, batch, success):
        if not self.batched:
            for name, at in objects:
                assert single(name, at, self.nbytes) == success
            return
        for start in range(0, len(objects), BATCH):
            names, places = zip(*objects[start : start + BATCH], strict=True)
            assert list(batch(list(names), list(places), [self.nbytes] * len(names))) == [success] * len(names)


def main():
    """Serves until standard input ends."""
    if sys.argv[1] == "provide":
        provide(*sys.argv[2:])
    mode, (count, blocks, nbytes) = sys.argv[1], map(int, sys.argv[2:])
    # what Mooncake prints must not stand among the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with ExitStack() as stack:
        addresses = stack.enter_context(cluster())
        if mode != "local":
            command = [sys.executable, __file__, "provide", *addresses]
            provider = stack.enter_context(running(command, stdout=subprocess.PIPE, text=True))
            while provider.stdout.readline().strip() != "ready":
                assert provider.poll() is None, "Mooncake's other process did not start"
        store = member(*addresses, SEGMENT if mode == "local" else 0, BUFFER)
        prompts = Prompts(store, mode == "local", count, blocks, nbytes)
        for number in range(count):
            prompts.write(number)
            prompts.read(number)
        assert prompts.source[:] == prompts.target[:]
        print(json.dumps({"seconds": 0}), file=answers, flush=True)
        for line in sys.stdin:
            word, number = line.split()
            begun = time.perf_counter()
            getattr(prompts, word)(int(number))
            print(json.dumps({"seconds": time.perf_counter() - begun}), file=answers, flush=True)
    # threads of Mooncake's do not end
    os._exit(0)


if __name__ == "__main__":
    main()
