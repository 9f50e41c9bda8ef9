"""How fast a node gives what another node has, beside what that other node gives itself.

    python benchmarks/cluster_peers.py [--json] [--quick]

Two nodes with one Redis, each in a process of its own on this machine, and a client that reads the same prompts of
`node a` by the bulk path, and by the bulk path of `node b`, which has none of them and keeps none. Both turn by turn:
`cluster.peer_read` is the median of the ratios.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from first_light import process
from report import Report
from store_memory import MIB, Clock, Prompt, spec_of
from store_redis import server

from cachestore.cluster.host import StoreHost
from cachestore.service.client import RemoteStore

BLOCKS = 32
BLOCK_BYTES = 2 * MIB
PROMPTS = 4
NEVER = 1 << 30
"""The read with which a block is copied: each of these is to come from the other node."""

PATIENCE = 30.0


def _host(tables: str, name: str, ready: Connection) -> None:
    host = StoreHost(json.loads(tables), name, 0)
    ready.send(host.address())
    try:
        ready.recv()
    except EOFError:
        host.close()


@contextmanager
def node(name: str, redis: int, bulk_port: int) -> Iterator[RemoteStore]:
    """A node of its own, and a client of it."""
    patient = {"connect_timeout": "2s", "timeout": "2s"}
    tables: dict[str, Any] = {
        "tiers": [{"name": "cpu", "capacity": 2 * PROMPTS * BLOCKS * BLOCK_BYTES}],
        "codecs": {"name": "raw"},
        "directory": {"name": "redis", "server": {"url": f"redis://127.0.0.1:{redis}"}, **patient},
        "peers": {"copy_after": NEVER, "timeout": PATIENCE},
        "service": {"bulk_port": bulk_port, "in_flight_bytes": "256MiB"},
    }
    with process(_host, json.dumps(tables), name) as address, RemoteStore(address, transports=("bulk",)) as store:
        yield store


def until_found(store: RemoteStore, prompts: list[Prompt]) -> None:
    """Waits until a node knows of all that the other has."""
    end = time.monotonic() + PATIENCE
    while any(store.lookup(prompt.keys).ready < BLOCKS for prompt in prompts):
        assert time.monotonic() < end, "the nodes do not see each other's blocks"
        time.sleep(0.05)


def main() -> None:
    """Measures, and prints the rows."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="two rounds")
    options = parser.parse_args()
    report = Report("What another node has")
    prompts = [Prompt.random(spec_of(BLOCK_BYTES // 64), BLOCKS, number) for number in range(PROMPTS)]
    clock = Clock()
    with server() as redis, node("a", redis, 0) as holder, node("b", redis, 0) as other:
        for prompt in prompts:
            prompt.put(holder)
        until_found(other, prompts)
        assert all(prompt.comes_back(other) for prompt in prompts)
        for turn in range(1 + (2 if options.quick else 12)):
            for index, prompt in enumerate(prompts):
                clock.time("own", lambda prompt=prompts[index - 2]: prompt.read(holder))
                clock.time("peer", lambda prompt=prompt: prompt.read(other))
            if not turn:
                clock.forget()
    report.add("cluster.peer_read", clock.ratio("peer", "own"), "of own reads")
    for name in ("peer", "own"):
        speed = median(BLOCKS * BLOCK_BYTES / seconds for seconds in clock.seconds[name]) / 1e9
        report.add(f"cluster.peer_read.{name}", speed, "GB/s")
    report.print(options.json)


if __name__ == "__main__":
    main()
