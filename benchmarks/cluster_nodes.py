"""Nodes of the cluster benchmarks: plain processes, or the stores of a real Ray, which end with the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from store_redis import server

from cachestore.service.client import RemoteStore

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "tests" / "faults"
"""A node, and a Ray of three nodes, in processes that end with their input: the ones that the tests break."""


def tables(port: int, name: str, capacity: int) -> dict[str, Any]:
    """The configuration of a node with so many bytes of memory, of the directory in the Redis at this port."""
    directory = {
        "name": "redis", "heartbeat": "500ms", "ttl": "5s", "server": {"url": f"redis://127.0.0.1:{port}"},
        "connect_timeout": "2s", "timeout": "2s",
    }  # fmt: skip
    return {
        "tiers": [{"name": "cpu", "capacity": capacity}],
        "store": {"node": name},
        "codecs": {"name": "raw"},
        "directory": directory,
        "peers": {"timeout": "1s", "copy_after": 1},
        "service": {"port": 0, "drain": 0.1},
    }


@contextmanager
def script(name: str, argument: object, *more: str) -> Iterator[subprocess.Popen[str]]:
    """One of the scripts, called with this."""
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / name), json.dumps(argument), *more],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    """The next line of a script."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError("a process of the benchmark ended by itself; what it said stands above")
    return line


@contextmanager
def plain(count: int, capacity: int) -> Iterator[tuple[int, dict[str, RemoteStore]]]:
    """So many nodes with `capacity` bytes in all: the port of their Redis, and a client of each by name."""
    with ExitStack() as stack:
        port = stack.enter_context(server())
        nodes = {}
        for number in range(count):
            name = f"node-{number}"
            process = stack.enter_context(script("node_process.py", tables(port, name, capacity // count)))
            nodes[name] = stack.enter_context(RemoteStore(said(process), transports=("stream",)))
        yield port, nodes


class Ray:
    """A Ray of three nodes with a store on each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.stores: dict[str, str] = json.loads(said(process))[0]

    def do(self, what: str, **more: Any) -> Any:
        """Does something to it; what it says of that."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **more}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(said(self._process))
        if "error" in answer:
            raise RuntimeError(f"{what}: {answer['error']}: {answer['text']}")
        return answer["said"]


@contextmanager
def on_ray(capacity: int, more: Mapping[str, Any], machines: Sequence[str] = ()) -> Iterator[Ray]:
    """Three nodes with `capacity` bytes each, and `more` tables; on one machine unless these are several."""
    with server() as port:
        told = {name: table for name, table in tables(port, "", capacity).items() if name != "store"}
        with script("ray_process.py", {**told, **more}, *machines) as process:
            yield Ray(process)
