"""What is it worth that another node has a prompt's blocks: beside Redis, beside computing, beside having them oneself?

    python benchmarks/cluster_peers.py [--json] [--quick]

Two nodes with one Redis, each in a process of its own on this machine, and a client that reads by the bulk path. What
`a` has in memory it reads of `a`, and of `b`, which keeps nothing and asks `a`; what only the Redis tier has it reads
of `b`, too. `computing` runs a model of 52 million parameters on this machine's processor over a prompt as long as one
whose blocks are read instead. All turn by turn, medians of ratios: `cluster.peer_read.faster_than_*` say how many times
as fast a read from the other node is, `cluster.peer_read` is the share of what that node itself gives.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from random import Random
from statistics import median
from typing import Any

from first_light import process
from report import Report
from serving_model import LARGE, TINY, made, prompt
from store_memory import MIB, Clock, Prompt, spec_of
from store_redis import server

from cachestore.block import BlockSpec, Slot
from cachestore.cluster.host import StoreHost
from cachestore.metrics import total
from cachestore.service.client import RemoteStore

BLOCKS = 32
BLOCK_BYTES = 2 * MIB
PROMPTS = 4
NEVER = 1 << 30
"""The read with which a block is kept: each is to come from where it was at first."""

TOKENS = 2048
"""Of the prompt that is computed, or read instead."""

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
    # a machine that is busy must look neither like a Redis that hangs nor like a node that died
    patient = {"connect_timeout": PATIENCE, "timeout": PATIENCE}
    url = f"redis://127.0.0.1:{redis}"
    tables: dict[str, Any] = {
        "tiers": [
            {"name": "cpu", "capacity": 2 * PROMPTS * BLOCKS * BLOCK_BYTES},
            {"name": "redis", "url": url, **patient},
        ],
        "store": {"promote_after": NEVER, "prefetch": False},
        "codecs": {"name": "raw"},
        "directory": {"name": "redis", "ttl": 2 * PATIENCE, **patient},
        "peers": {"copy_after": NEVER, "timeout": PATIENCE},
        "service": {"bulk_port": bulk_port, "in_flight_bytes": "256MiB"},
    }
    with process(_host, json.dumps(tables), name) as address, RemoteStore(address, transports=("bulk",)) as store:
        yield store


def computing(shape: dict[str, int], tokens: int) -> tuple[Callable[[], object], BlockSpec]:
    """Computes a prompt of so many tokens; the spec of its blocks."""
    import torch
    from transformers import AutoModelForCausalLM

    with made(shape) as folder:
        model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    given = torch.tensor([prompt(Random(0), tokens)])
    heads, dim = shape["num_key_value_heads"], shape["hidden_size"] // shape["num_attention_heads"]

    def compute() -> object:
        with torch.inference_mode():
            return model(given, use_cache=True, logits_to_keep=1)

    slots = (Slot(heads, dim, dim),) * shape["num_hidden_layers"]
    return compute, BlockSpec("bench/computed", "0" * 40, "float32", slots, heads)


def until_found(store: RemoteStore, prompts: list[Prompt]) -> None:
    """Waits until a node knows of all that the other has, or Redis."""
    end = time.monotonic() + PATIENCE
    while any(store.lookup(prompt.keys).ready < len(prompt.keys) for prompt in prompts):
        assert time.monotonic() < end, "the nodes do not see each other's blocks"
        time.sleep(0.05)


def measure(report: Report, quick: bool) -> None:
    """Rows `cluster.peer_read`; `quick` takes two rounds, and a model that computes little."""
    spec = spec_of(BLOCK_BYTES // 64)
    shared, cold = ([Prompt.random(spec, BLOCKS, PROMPTS * set + at) for at in range(PROMPTS)] for set in range(2))
    clock, tokens = Clock(), TOKENS // 8 if quick else TOKENS
    compute, computed = computing(TINY if quick else LARGE, tokens)
    instead = Prompt.random(computed, tokens // computed.block_tokens, 2 * PROMPTS)
    with server() as redis, node("a", redis, 0) as holder, node("b", redis, 0) as other:
        for each in cold:
            each.put(holder)
        until_found(other, cold)
        holder.clear("cpu")
        for each in (*shared, instead):
            each.put(holder)
        until_found(other, [*shared, instead])
        assert all(each.comes_back(other) for each in (*shared, *cold, instead))
        for turn in range(1 + (2 if quick else 12)):
            for index, here in enumerate(shared):
                clock.time("own", lambda each=shared[index - 2]: each.read(holder))
                clock.time("peer", lambda each=here: each.read(other))
                clock.time("redis", lambda each=cold[index]: each.read(other))
            clock.time("instead", lambda: instead.read(other))
            clock.time("computing", compute)
            if not turn:
                clock.forget()
                before = other.stats()
        counted, blocks = other.stats(), BLOCKS * len(clock.seconds["peer"])
    from_redis = total(counted, "read_hits", tier="redis") - total(before, "read_hits", tier="redis")
    from_peer = total(counted, "peer_read_blocks") - total(before, "peer_read_blocks")
    assert from_redis == blocks, "what only Redis has was not read from there"
    assert from_peer == blocks + len(instead.keys) * len(clock.seconds["instead"]), "blocks did not come from the node"
    report.add("cluster.peer_read", clock.ratio("peer", "own"), "of own reads")
    report.add("cluster.peer_read.faster_than_redis", clock.ratio("peer", "redis"), "times")
    report.add("cluster.peer_read.faster_than_computing", clock.ratio("instead", "computing"), "times")
    for name in ("peer", "own", "redis"):
        speed = median(BLOCKS * BLOCK_BYTES / seconds for seconds in clock.seconds[name]) / 1e9
        report.add(f"cluster.peer_read.{name}", speed, "GB/s")
    for name in ("instead", "computing"):
        what = "peer" if name == "instead" else name
        report.add(f"cluster.peer_read.{what}_tokens", tokens / clock.median(name), "tokens/s")


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="two rounds, and a model that computes little")
    options = parser.parse_args()
    report = Report("What another node has")
    measure(report, options.quick)
    report.print(options.json)


if __name__ == "__main__":
    main()
