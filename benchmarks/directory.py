"""How fast a directory in Redis answers and is told, and what it costs there.

    python benchmarks/directory.py [--json] [--quick]

`cluster.lookup_ms` is what a lookup of 1,000 keys takes, half of them held by two nodes, the Redis tier asked in the
same round trip; `directory.memory_ms` is the same without the Redis tier. Beside it redis-py asks the same server for
as many short strings, in one MGET and in a pipeline of GETs, turn by turn.
"""

from __future__ import annotations

import random
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import redis
from report import Report
from store_memory import Clock
from store_redis import server

from cachestore.deadline import Deadline
from cachestore.directory.redis import Redis, RedisDirectory
from cachestore.metrics import total
from cachestore.tiers.redis import Redis as Server

ASKED = 1000
NAMESPACE = b"n" * 32
PATIENCE = 30.0


@contextmanager
def opened(port: int, tier: bool = True) -> Iterator[RedisDirectory]:
    """A part in the directory at this port."""
    place = Server(f"redis://127.0.0.1:{port}")
    settings = Redis(
        None if tier else place, ttl=600, heartbeat=0.1, timeout=PATIENCE, connect_timeout=PATIENCE, backlog=1 << 20
    )
    directory = settings.start(place)
    directory.open()
    try:
        yield directory
    finally:
        directory.close()


def told(directory: RedisDirectory, say: Callable[[bytes, list[bytes]], None], keys: list[bytes]) -> float:
    """Seconds until all of this is in the directory."""
    begun = time.perf_counter()
    say(NAMESPACE, keys)
    while total(directory.figures(), "directory_pending"):
        directory.step()
    return time.perf_counter() - begun


def keys_of(count: int, seed: int = 0) -> list[bytes]:
    """Keys as hashes give them."""
    source = Random(seed)
    return [source.randbytes(32) for _ in range(count)]


def measure_lookup(report: Report, port: int, turns: int) -> None:
    """Rows about what a lookup takes."""
    keys, clock = keys_of(ASKED), Clock()
    names = [b"yardstick:" + key for key in keys]
    with ExitStack() as stack:
        nodes = [stack.enter_context(opened(port)) for _ in range(2)]
        both, memory = stack.enter_context(opened(port)), stack.enter_context(opened(port, tier=False))
        client = stack.enter_context(redis.Redis(port=port))
        client.mset({name: b"+" + name[:8] for name in names[::2]})
        for number, node in enumerate(nodes):
            node.join(f"node{number}", "host:1", set())
            told(node, node.announce, keys[::2])
        for reader in (both, memory):
            while len(reader.lives()) < len(nodes):
                reader.step()

        def pipelined() -> None:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.get(name)
            pipeline.execute()

        ways: dict[str, Callable[[], object]] = {
            "ours": lambda: both.lookup(NAMESPACE, keys, Deadline.after(PATIENCE)),
            "memory": lambda: memory.lookup(NAMESPACE, keys, Deadline.after(PATIENCE)),
            "mget": lambda: client.mget(names),
            "gets": pipelined,
        }
        for turn in range(turns):
            for way, ask in random.sample(list(ways.items()), len(ways)):
                clock.time(way, ask)
            if turn < 3:
                clock.forget()
        found = both.lookup(NAMESPACE, keys, Deadline.after(PATIENCE))
        assert [len(where.holders) for where in found] == [2, 0] * (ASKED // 2)
    report.add("cluster.lookup_ms", 1e3 * clock.median("ours"), "ms", "lower", bar=4, reach=1.5)
    report.add("directory.memory_ms", 1e3 * clock.median("memory"), "ms", "lower")
    report.add("directory.mget_ms", 1e3 * clock.median("mget"), "ms", "lower")
    report.add("directory.gets_ms", 1e3 * clock.median("gets"), "ms", "lower")
    report.add("directory.beside_mget", clock.ratio("ours", "mget"), "ratio")
    report.add("directory.beside_gets", clock.ratio("ours", "gets"), "ratio")


def measure_telling(report: Report, port: int, count: int) -> None:
    """Rows about what it takes to tell, and what an entry costs in Redis."""
    keys = keys_of(count, seed=1)
    with opened(port) as node, redis.Redis(port=port) as client:
        node.join("node", "host:1", set())
        node.step()
        before = client.info("memory")["used_memory"]
        report.add("directory.announced", count / told(node, node.announce, keys), "blocks/s")
        used = client.info("memory")["used_memory"] - before
        report.add("cluster.directory_bytes", used / count, "bytes", "lower", bar=160, reach=100)
        report.add("directory.withdrawn", count / told(node, node.withdraw, keys), "blocks/s")


def main() -> None:
    """Measures, and prints the rows."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    options = parser.parse_args()
    report = Report("The directory")
    with server() as port:
        measure_lookup(report, port, 30 if options.quick else 300)
    with server() as port:
        measure_telling(report, port, 10_000 if options.quick else 100_000)
    report.print(options.json)


if __name__ == "__main__":
    main()
