"""What a simulated cluster is asked for: prompts of a trace, as often as it takes to be enough, and drawn ones."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from random import Random
from typing import NamedTuple

from traces import between, zipf

from cachestore.replay.trace import Trace, read_trace

KEY_BYTES = 8
DOCUMENT_BLOCKS = 15
ANSWER_TOKENS = 340
"""What an answer to a drawn prompt has, about as in the conversation trace."""


class Prompt(NamedTuple):
    """One request: when it comes, in seconds; the names of its blocks; how many tokens its answer has."""

    at: float
    keys: list[bytes]
    output: int


@dataclass(frozen=True)
class Workload:
    """Prompts in order of time, the same ones each time, with `distinct` blocks, and `blocks` with repetitions."""

    name: str
    seconds: float
    requests: int
    blocks: int
    distinct: int
    prompts: Callable[[], Iterator[Prompt]]


def tiled(place: Path, tiles: int, nodes: int, rate: float) -> Workload:
    """`tiles` copies of the trace that share nothing, each beginning elsewhere in it; `rate` prompts a node and second.

    A copy that begins in the middle goes on with the beginning when it comes to the end, so that the load is even.
    """
    trace = read_trace(str(place))
    times, outputs = _times(place, trace)
    span = times[-1] - times[0] + 1.0
    requests = tiles * len(times)
    stretch = requests / (rate * nodes) / span

    def tile(number: int) -> Iterator[Prompt]:
        shift, base = span * number / tiles, number * trace.nodes
        first = next((index for index, at in enumerate(times) if at - times[0] >= shift), 0)
        for index in (*range(first, len(times)), *range(first)):
            at = (times[index] - times[0] - shift) % span
            keys = [(base + node).to_bytes(KEY_BYTES, "big") for node in trace.requests[index]]
            yield Prompt(at * stretch, keys, outputs[index])

    def prompts() -> Iterator[Prompt]:
        return merge(*map(tile, range(tiles)), key=lambda prompt: prompt.at)

    return Workload("trace", span * stretch, requests, tiles * trace.blocks, tiles * trace.nodes, prompts)


def drawn(requests: int, documents: int, nodes: int, rate: float, seed: int = 0) -> Workload:
    """Documents by Zipf's law with exponent 1, each time with a question that never comes again."""
    random = Random(seed)
    ends = [0]
    for _ in range(documents):
        ends.append(ends[-1] + 1 + int(between(random, DOCUMENT_BLOCKS, 0.6)))
    chosen = random.choices(range(documents), cum_weights=zipf(documents, 1.0), k=requests)
    lengths = [ends[document + 1] - ends[document] for document in range(documents)]

    def prompts() -> Iterator[Prompt]:
        clock, at = Random(seed + 1), 0.0
        for number, document in enumerate(chosen):
            at += clock.expovariate(rate * nodes)
            blocks = (*range(ends[document], ends[document + 1]), ends[-1] + number)
            yield Prompt(at, [block.to_bytes(KEY_BYTES, "big") for block in blocks], ANSWER_TOKENS)

    blocks = sum(lengths[document] for document in chosen) + requests
    distinct = sum(lengths[document] for document in set(chosen)) + requests
    return Workload("zipf", requests / (rate * nodes), requests, blocks, distinct, prompts)


def _times(place: Path, trace: Trace) -> tuple[list[float], list[int]]:
    """When each request of a trace came, in seconds, and how many tokens were answered."""
    lines = [json.loads(line) for line in place.read_text().splitlines() if line.strip()]
    times = [line.get("timestamp", 1000 * index) / 1000 for index, line in enumerate(lines)]
    assert len(times) == len(trace.requests) and times == sorted(times), f"{place} is not in order of time"
    return times, [int(line.get("output_length", 0)) for line in lines]
