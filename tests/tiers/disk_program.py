"""A process with an open disk tier that does what a test tells it, one line at a time, while the test breaks its disk.

Speaks over a socket at descriptor 0, so that its answers need none of the system calls that a test makes fail. Each
"open" gets a process of its own, forked from one that has everything imported.

    open FOLDER TIMEOUT THREADS
                            "open PID"; when that process has died: "died"
    put N SEED KIND ...     whether blocks N of content SEED are there now; KIND is "cache", "durable", or "brief" for
                            a cache block that ends after half a second
    get N SECONDS           "right SEED", "corrupt REASON" or "None"
    delete N, clear, present N, healthy, log, limit BYTES (of a file), close
"""

import ctypes
import logging
import os
import resource
import socket
from functools import partial

import numpy as np

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.eviction.lru import Lru
from cachestore.seal import CorruptBlock, Header
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import KEYS, A, departed
from cachestore.tiers import disk

ANY_TRACER = 0x59616D61, -1


def block(number: int, seed: int, durable: bool) -> Buffer:
    """The block that "put NUMBER SEED" puts."""
    return sealed_block(A, KEYS[number], 20_000, seed, durable=durable)


def seed_of(number: int, data: Buffer) -> int:
    """Which content this is of block `number`, whole; -1 if it is none."""
    header = Header.parse(data)
    return header.sequence if np.array_equal(data, block(number, header.sequence, bool(header.flags & 8))) else -1


class Session:
    """One open tier."""

    def __init__(self, folder: str, timeout: str, threads: str) -> None:
        disk.THREADS = int(threads)
        self.said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("cachestore").addHandler(handler)
        self.tier = disk.Disk(folder, 64 << 20, timeout=float(timeout)).start(Lru())
        self.tier.open(departed)

    def put(self, *words: str) -> str:
        """Any number of N SEED KIND in one batch."""
        wanted = list(zip(words[::3], words[1::3], words[2::3], strict=True))
        durable, ttl = wanted[0][2] == "durable", 0.5 if wanted[0][2] == "brief" else None
        blocks = [(KEYS[int(number)], block(int(number), int(seed), durable)) for number, seed, _ in wanted]
        return str(all(self.tier.put_many(A, blocks, ttl, Deadline.after(10), durable=durable)))

    def get(self, number: str, seconds: str) -> str:
        """What is found of one block."""
        (found,) = self.tier.get_many(A, [KEYS[int(number)]], Deadline.after(float(seconds)))
        if isinstance(found, CorruptBlock):
            return f"corrupt {found.reason}"
        return "None" if found is None else f"right {seed_of(int(number), found)}"

    def delete(self, number: str) -> str:
        """Whether a block was there."""
        return str(self.tier.delete_many(A, [KEYS[int(number)]], Deadline.after(10)))

    def clear(self) -> str:
        """How many blocks there were."""
        cleared = self.tier.clear(A, Deadline.after(10))
        return str(None if cleared is None else len(cleared))

    def present(self, number: str) -> str:
        """Whether it is there."""
        return str(self.tier.present(A, [KEYS[int(number)]], Deadline.after(10))[0])

    def healthy(self) -> str:
        """What the tier says of itself."""
        return str(self.tier.healthy)

    def log(self) -> str:
        """Everything said since this was asked last."""
        said, self.said[:] = "|".join(self.said), []
        return said

    def limit(self, nbytes: str) -> str:
        """No file may become longer than this."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(nbytes) if int(nbytes) >= 0 else hard, hard))
        return "limited"

    def close(self) -> str:
        """Closes the tier."""
        self.tier.close()
        return "closed"


def serve(talk: socket.socket, *settings: str) -> None:
    """Does what it is told until the other side closes."""
    # where only parents may trace their children, anybody may trace this one
    ctypes.CDLL(None).prctl(*map(ctypes.c_ulong, ANY_TRACER), 0, 0, 0)
    session = Session(*settings)
    talk.sendall(f"open {os.getpid()}\n".encode())
    while line := talk.recv(1000):
        word, *words = line.decode().split()
        talk.sendall(f"{getattr(session, word)(*words)}\n".encode())


if __name__ == "__main__":
    socket_at_0 = socket.socket(fileno=0)
    for order in iter(partial(socket_at_0.recv, 1000), b""):
        child = os.fork()
        if not child:
            serve(socket_at_0, *order.decode().split()[1:])
            os._exit(0)
        os.waitpid(child, 0)
        socket_at_0.sendall(b"died\n")
