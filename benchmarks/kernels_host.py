"""The naive paths on a processor: gather and scatter beside a copy of the same bytes."""

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.report import Report
from cachestore_kernels.paged import gather, scatter

SLOTS, PAGES, HEADS, TOKENS, DIM = 8, 40, 8, 64, 128
ROUNDS = 15


def measure(as_json: bool) -> None:
    """Takes turns between copy and kernel, and prints the medians of the ratios of neighbours."""
    # one thread: what is compared is work, not how many processors wake up for it
    torch.set_num_threads(1)
    keys, values = ([torch.randn(PAGES, HEADS, TOKENS, DIM).bfloat16() for _ in range(SLOTS)] for _ in range(2))
    pages = torch.randperm(PAGES)
    blocks = gather(keys, values, pages)
    copy = torch.empty_like(blocks)
    calls: dict[str, Callable[[], object]] = {
        "gather": lambda: gather(keys, values, pages, out=blocks),
        "scatter": lambda: scatter(blocks, keys, values, pages),
    }
    report = Report("kernels on the processor")
    for name, call in calls.items():
        ratios = []
        for _ in range(ROUNDS):
            plain = timed(lambda: copy.copy_(blocks))
            ratios.append(plain / timed(call))
        report.add(f"kernels.{name}", statistics.median(ratios), "of a memory copy", bar=0.6, reach=0.85)
    report.print(as_json)


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
