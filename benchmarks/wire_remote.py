"""The rows of `wire.py` about another node: what the stream and the bulk path reach beside bare TCP and Mooncake."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from report import Report
from store_memory import Prompt
from wire_peers import mooncake
from wire_sides import BLOCK_BYTES, Sides, Way, fill, prompt_count, prompts, raw_tcp, remote, renamed, served, timed

from cachestore.service.client import RemoteStore

if TYPE_CHECKING:
    from wire import Options

TRANSPORTS = ("stream", "bulk")


def measure_reads(report: Report, options: Options) -> None:
    """What reads verified blocks from another process, beside what takes bytes from it unseen."""
    count = prompt_count(options, options.blocks)
    own, sides = prompts(count, blocks=options.blocks), Sides(options.blocks)
    with ExitStack() as stack:
        node = stack.enter_context(served(count * options.blocks * BLOCK_BYTES * 9 // 8))
        sides.ways["tcp"] = timed(stack.enter_context(raw_tcp(own)).read)
        for name in TRANSPORTS:
            with sides.noting(name):
                store = stack.enter_context(remote(node.address, name))
                fill(store, own)
                assert all(prompt.comes_back(store) for prompt in own)
                sides.ways[name] = timed(partial(read, store, own))
        for mode in ("remote", "checked"):
            with sides.noting(f"mooncake {mode}"):
                sides.ways[f"mooncake {mode}"] = stack.enter_context(mooncake(options, mode, count, options.blocks))[
                    "read"
                ]
        sides.take_turns(count, options)
    best = sides.quickest("bulk", "stream")
    sides.row(report, "wire.stream_read", "stream", "tcp", bar=0.33, reach=0.45)
    sides.row(report, "wire.bulk_read", "bulk", "tcp", bar=0.75, reach=0.92)
    sides.row(report, "wire.mooncake_read", best, "mooncake remote", bar=1.3, reach=2.0)
    sides.row(report, "wire.mooncake_verified", best, "mooncake checked", bar=5, reach=8)


def measure_writes(report: Report, options: Options) -> None:
    """The other way round."""
    count = prompt_count(options, options.blocks)
    own, sides = prompts(count, blocks=options.blocks), Sides(options.blocks)
    between: list[Callable[[], object]] = []
    with ExitStack() as stack:
        node = stack.enter_context(served(len(TRANSPORTS) * count * options.blocks * BLOCK_BYTES * 9 // 8))
        sides.ways["tcp"] = timed(stack.enter_context(raw_tcp(own)).write)
        for place, name in enumerate(TRANSPORTS):
            with sides.noting(name):
                store = stack.enter_context(remote(node.address, name))
                theirs = [renamed(prompt, 1 + place * count + number) for number, prompt in enumerate(own)]
                sides.ways[name] = timed(partial(put, store, theirs))
                between.append(store.clear)
        with sides.noting("mooncake remote"):
            peer = stack.enter_context(mooncake(options, "remote", count, options.blocks))
            sides.ways["mooncake remote"] = peer["write"]
            between.append(partial(peer["clear"], 0))
        sides.take_turns(count, options, lambda: [work() for work in between])
    best = sides.quickest("bulk", "stream")
    sides.row(report, "wire.stream_write", "stream", "tcp", bar=0.30, reach=0.42)
    sides.row(report, "wire.bulk_write", "bulk", "tcp", bar=0.70, reach=0.90)
    sides.row(report, "wire.mooncake_write", best, "mooncake remote", bar=1.2, reach=2.0)


def measure_cpu(report: Report, options: Options) -> None:
    """Row `wire.cpu`: seconds of both processes a byte read."""
    count = prompt_count(options, options.blocks)
    own, sides = prompts(count, blocks=options.blocks), Sides(options.blocks)
    with ExitStack() as stack:
        node = stack.enter_context(served(count * options.blocks * BLOCK_BYTES * 9 // 8))
        tcp = stack.enter_context(raw_tcp(own))
        sides.ways["tcp"] = _spent(tcp.pid, tcp.read)
        for name in TRANSPORTS:
            with sides.noting(name):
                store = stack.enter_context(remote(node.address, name))
                fill(store, own)
                sides.ways[name] = _spent(node.pid, partial(read, store, own))
        sides.take_turns(count, options)
    for name in sides.ways:
        report.add(
            f"wire.cpu.{name}", sides.clock.median(name) / (options.blocks * BLOCK_BYTES) * 1e9, "CPU s/GB", "lower"
        )
    if "bulk" in sides.ways:
        report.add("wire.cpu", sides.clock.ratio("tcp", "bulk"), "ratio", "lower", bar=1.6, reach=1.2)
    else:
        report.skip("wire.cpu", sides.missing["bulk"])


def _spent(pid: int, work: Callable[[int], object]) -> Way:
    """A way whose seconds are those of processors, in this process and in that one."""
    # how Linux names the clock of another process (clock_getcpuclockid)
    there = ~pid << 3 | 2

    def way(number: int) -> float:
        begun = time.process_time() + time.clock_gettime(there)
        work(number)
        return time.process_time() + time.clock_gettime(there) - begun

    return way


def read(store: RemoteStore, own: list[Prompt], number: int) -> None:
    """Reads a prompt of these."""
    own[number].read(store)


def put(store: RemoteStore, own: list[Prompt], number: int) -> None:
    """Puts a prompt of these."""
    own[number].put(store)
