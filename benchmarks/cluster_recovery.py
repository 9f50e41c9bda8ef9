"""The rows of `cluster.py` about what a node's death and that of Ray's head cost, on a real Ray of three nodes."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import suppress
from random import Random
from statistics import median
from threading import Thread
from typing import TYPE_CHECKING

from cluster_hits import SPEC, block_of, is_right
from cluster_nodes import Ray, on_ray
from report import Report

from cachestore.demo.documents import needle
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain, chain
from cachestore.service.client import RemoteStore
from cachestore.store.base import put_blocks
from cachestore.testing.blocks import random_tokens

if TYPE_CHECKING:
    from cluster import Options

PROMPTS, BLOCKS = 120, 8
TIMEOUT = 1.0
CAPACITY = 32 << 20
WATCHED = 15.0
"""Seconds after a death in which hits are counted."""

WINDOW = 0.5
LOST = "1"
"""The store that dies: not the one beside the head."""

HEAD = 0
MACHINES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
"""Of the nodes; Ray takes them for three machines."""

GATEWAY = "ray::ServeReplica:cachestore-gateway"
PROXY_SECONDS = 60.0
"""Within which Ray Serve begins to take requests on nodes that have workers."""

MODEL = "needle"
ENOUGH = 0.9
OUTAGE, QUICK_OUTAGE = 30.0, 3.0
"""Seconds that the head stands still, and that it is dead then."""


class Users:
    """Who reads drawn prompts at drawn nodes, one after the other, and puts what is not found.

    They know which prompts have to be there: those whose put was acknowledged by a node that has not died since. They
    count `answers`, be it that nothing is there, and the `longest` that they waited for one, or for an error.
    """

    def __init__(self, stores: dict[str, str], random: Random) -> None:
        self.nodes = {name: RemoteStore(address, transports=("stream",)) for name, address in stores.items()}
        self.random = random
        self.prompts = [chain(SPEC, random_tokens(BLOCKS * SPEC.block_tokens, seed)) for seed in range(PROMPTS)]
        self.homes: list[set[str]] = [set() for _ in self.prompts]
        self.answers = 0
        self.longest = 0.0

    def __enter__(self) -> Users:
        for store in self.nodes.values():
            store.open()
        for number in range(PROMPTS):
            self.put(number, list(self.nodes)[number % len(self.nodes)])
        return self

    def __exit__(self, *exception: object) -> None:
        for store in self.nodes.values():
            store.close()

    def put(self, number: int, node: str) -> None:
        """Computes a prompt there."""
        keys = self.prompts[number]
        with suppress(CacheStoreError):
            put_blocks(self.nodes[node], keys.fingerprint, [block_of(key) for key in keys.keys], timeout=TIMEOUT)
            self.homes[number].add(node)

    def died(self, node: str) -> None:
        """What it had it has no more."""
        for homes in self.homes:
            homes.discard(node)

    def ask(self) -> tuple[int, int]:
        """One request: blocks that came, and those that had to."""
        number, node = self.random.randrange(PROMPTS), self.random.choice(list(self.nodes))
        wanted = BLOCKS if self.homes[number] else 0
        got = self._read(node, self.prompts[number])
        if got < BLOCKS:
            self.put(number, node)
        return got, wanted

    def _read(self, node: str, keys: Chain) -> int:
        begun, blocks = time.monotonic(), []
        with suppress(CacheStoreError), self.nodes[node].read(keys, timeout=TIMEOUT) as reading:
            blocks = [block for block, _ in reading]
            self.answers += 1
        self.longest = max(self.longest, time.monotonic() - begun)
        assert all(map(is_right, blocks)), "wrong bytes"
        return len(blocks)


def measure(report: Report, options: Options) -> None:
    """Rows `cluster.recovery_s` and `cluster.recovery_hits_s`: medians over some deaths.

    `.anywhere` is when somebody who asks any node is answered, and `.longest` the longest that anybody waited.
    """
    firsts, anywhere, hits = [], [], []
    with on_ray(CAPACITY, {}) as ray, Users(ray.stores, Random(0)) as users:
        for _ in range(1 if options.quick else 5):
            until = time.monotonic() + 2 * WINDOW
            while time.monotonic() < until:
                users.ask()
            first, other, enough = death(ray, users)
            firsts.append(first)
            anywhere.append(other)
            hits.append(enough)
    report.add("cluster.recovery_s", median(firsts), "s", "lower", bar=3.0, reach=1.5)
    report.add("cluster.recovery_s.worst", max(firsts), "s", "lower")
    report.add("cluster.recovery_s.anywhere", median(anywhere), "s", "lower")
    report.add("cluster.recovery_s.longest", users.longest, "s", "lower")
    report.add("cluster.recovery_hits_s", median(hits), "s", "lower", bar=10.0, reach=5.0)


def death(ray: Ray, users: Users) -> tuple[float, float, float]:
    """Seconds from the kill of a store until it answers; until any does; until hits stay near what they could be."""
    ray.do("signal_actor", number=int(LOST), name="SIGKILL")
    begun = time.monotonic()
    users.died(LOST)
    back: list[float] = []
    before, other = users.answers, WATCHED

    def answers() -> None:
        with RemoteStore(ray.stores[LOST], transports=("stream",)) as store:
            while not back and time.monotonic() < begun + WATCHED:
                with suppress(CacheStoreError):
                    store.lookup(users.prompts[0], timeout=TIMEOUT)
                    back.append(time.monotonic() - begun)
                time.sleep(0.01)

    probe = Thread(target=answers)
    probe.start()
    windows: dict[int, list[int]] = {}
    while (since := time.monotonic() - begun) < WATCHED:
        got, wanted = users.ask()
        if users.answers > before:
            other = min(other, time.monotonic() - begun)
        window = windows.setdefault(int(since / WINDOW), [0, 0])
        # more than had to come is nobody's merit
        window[0] += min(got, wanted)
        window[1] += wanted
    probe.join()
    short = [number for number, (got, wanted) in windows.items() if got < ENOUGH * wanted]
    return back[0] if back else WATCHED, other, (max(short) + 1) * WINDOW if short else 0.0


def measure_head(report: Report, options: Options) -> None:
    """Row `cluster.head_down`: the requests that the gateway answers while the GCS stands still, and while it is dead.

    The gateway and its workers are Ray Serve's, as `cachestore up` has them. The gateway stands on another node than
    the head, and requests come in there: the head's own proxy is killed, and without a GCS there is no other.
    """
    more = {
        "engine": {"model": str(needle() / "model"), "threads": 1},
        "gateway": {"port": 0, "served_model": MODEL},
        "cluster": {"prefill": 1, "decode": 1, "num_cpus": 0.5, "start_timeout": "300s"},
    }
    outage = QUICK_OUTAGE if options.quick else OUTAGE
    with on_ray(CAPACITY, more, MACHINES) as ray:
        url = ray.do("up")["gateway"]
        begun = time.monotonic()
        while not set(ray.do("proxies")) - {HEAD}:
            assert time.monotonic() < begun + PROXY_SECONDS, "no other node than the head takes requests"
            time.sleep(0.1)
        assert not ray.do("actor", number=HEAD, title=GATEWAY), "the gateway stands on the head"
        for number in range(3):
            assert answered(url, number), "the gateway does not answer while all is well"
        done: list[bool] = []
        for what in ("stop", "kill"):
            if what == "stop":
                ray.do("signal_gcs", name="SIGSTOP")
                ray.do("signal_actor", number=HEAD, name="SIGKILL", title="ray::ProxyActor")
            else:
                ray.do("kill_gcs")
            until = time.monotonic() + outage
            while time.monotonic() < until:
                done.append(answered(url, len(done)))
                time.sleep(0.1)
        ray.do("start_gcs")
    report.add("cluster.head_down", sum(done) / len(done), "of requests", bar=1.0, reach=1.0)
    report.add("cluster.head_down.requests", len(done), "requests")


def answered(url: str, number: int) -> bool:
    """Whether the gateway answers a prompt."""
    body = {"model": MODEL, "prompt": f"The code of ship {number % 7} is", "max_tokens": 4}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bool(json.load(answer)["choices"])
    except (OSError, ValueError, KeyError):
        return False
