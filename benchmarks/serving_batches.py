"""The rows of `serving.py` about tokens a second: our serving loop beside transformers' `generate`, in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from report import Report
from serving_model import LARGE, TINY, made, prompt

from cachestore.deadline import Deadline
from cachestore.store.base import Store
from cachestore.store.compose import compose

if TYPE_CHECKING:
    from serving import Options

    from cachestore.engine.batch_loop import BatchLoop

DEADLINE = 600.0
TOGETHER = 16
"""Sequences in a batch of `generate`."""

CONTINUOUS_TOKENS = 8
"""What transformers' continuous batching generates of each sequence: it is slow here."""


class Asked(NamedTuple):
    """One request: when it comes, in seconds from the beginning, its prompt, and how many tokens it wants."""

    at: float
    tokens: list[int]
    output: int


class Done(NamedTuple):
    """Seconds from the first request to the last token, and every output."""

    seconds: float
    outputs: list[list[int]]


@dataclass
class Sides:
    """Both ways to run one model."""

    loop: BatchLoop
    model: Any
    store: Store

    def ours(self, requests: Sequence[Asked], store: Store | None = None) -> Done:
        """Through the loop, each when it comes. With a store the blocks are put, and time runs until they are."""
        from cachestore.engine.batch_request import BatchRequest, BatchToken
        from cachestore.engine.stopping import Stop

        begun, streams = time.perf_counter(), []
        for one in requests:
            await_time(begun + one.at)
            # the pages of one side are not the other's
            tenant = "default" if store is None else "stored"
            request = BatchRequest(
                one.tokens, Stop(one.output), Deadline.after(DEADLINE), store=store, namespace=tenant,
                settle=store is not None,
            )  # fmt: skip
            streams.append(self.loop.submit(request))
        outputs = [[answer.id for answer in stream if isinstance(answer, BatchToken)] for stream in streams]
        return Done(time.perf_counter() - begun, outputs)

    def generate(self, requests: Sequence[Asked]) -> Done:
        """By `generate`, in batches of 16 in the order they come, padded, each as long as its longest output."""
        import torch

        begun, outputs = time.perf_counter(), list[list[int]]()
        for first in range(0, len(requests), TOGETHER):
            batch = requests[first : first + TOGETHER]
            await_time(begun + batch[-1].at)
            width, longest = max(len(one.tokens) for one in batch), max(one.output for one in batch)
            padding = [width - len(one.tokens) for one in batch]
            ids = torch.tensor([[0] * pad + one.tokens for pad, one in zip(padding, batch, strict=True)])
            mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
            with torch.inference_mode():
                made = self.model.generate(
                    ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False,
                    pad_token_id=0,
                )  # fmt: skip
            outputs += [row[: one.output] for row, one in zip(made[:, width:].tolist(), batch, strict=True)]
        return Done(time.perf_counter() - begun, outputs)

    def continuous(self, requests: Sequence[Asked]) -> float:
        """Seconds of transformers' own continuous batching for the same, with memory for that many."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        config = GenerationConfig(max_new_tokens=requests[0].output, do_sample=False, eos_token_id=-1, pad_token_id=0)
        # left alone it takes, and fills, most of the memory there is
        bounds = ContinuousBatchingConfig(
            num_blocks=2 * len(requests), max_batch_tokens=sum(len(one.tokens) for one in requests)
        )
        begun = time.perf_counter()
        self.model.generate_batch(
            [one.tokens for one in requests], generation_config=config, continuous_batching_config=bounds
        )
        return time.perf_counter() - begun


@contextmanager
def sides(options: Options) -> Iterator[Sides]:
    """One model, loaded twice: on pages with the default settings, and as transformers has it."""
    import torch
    from transformers import AutoModelForCausalLM

    from cachestore.engine.batch_loop import BatchLoop
    from cachestore.engine.batch_settings import BatchSettings
    from cachestore.engine.paged_model import PagedModel
    from cachestore.engine.settings import EngineSettings

    with made(TINY if options.quick else LARGE) as folder:
        paged = PagedModel(EngineSettings(str(folder)))
        paged.open()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        loop = BatchLoop(paged, BatchSettings())
        loop.open()
        try:
            with compose({"tiers": [{"name": "cpu", "capacity": "1GiB"}]}) as tiered:
                yield Sides(loop, model, tiered.namespace("stored"))
                loop.close()
        finally:
            loop.close()


def await_time(at: float) -> None:
    """Sleeps until then, if it is not over."""
    time.sleep(max(0.0, at - time.perf_counter()))


def equal(random: Random, count: int, tokens: int, output: int) -> list[Asked]:
    """So many requests of one length, all at once."""
    return [Asked(0.0, prompt(random, tokens), output) for _ in range(count)]


def mixed(random: Random, quick: bool, span: float) -> list[Asked]:
    """32 requests that come at random within `span` seconds: prompts of 32 to 512 tokens, outputs of 8 to 128."""
    scale = 8 if quick else 1
    times = sorted(random.uniform(0, span) for _ in range(32))
    return [
        Asked(
            at - times[0],
            prompt(random, int(32 * 16 ** random.random()) // scale),
            int(8 * 16 ** random.random()) // scale + 1,
        )
        for at in times
    ]


def compared(report: Report, id: str, rounds: Sequence[tuple[Done, Done]], bar: float, reach: float) -> None:
    """A row of rates over rates, and both sides behind it; first of each pair is ours."""
    rates = [[sum(map(len, done.outputs)) / done.seconds for done in both] for both in rounds]
    report.add(
        id, statistics.median(ours / theirs for ours, theirs in rates), "of generate", bar=bar, reach=reach
    )  # fmt: skip
    for side, found in zip(("ours", "generate"), zip(*rates, strict=True), strict=True):
        report.add(f"{id}.{side}", statistics.median(found), "tokens/s")
    pairs = [pair for ours, theirs in rounds for pair in zip(ours.outputs, theirs.outputs, strict=True)]
    report.add(f"{id}.same", statistics.mean(ours == theirs for ours, theirs in pairs), "of outputs")


def turns(side: Sides, requests: Sequence[Asked], number: int) -> tuple[Done, Done]:
    """Both ways, every other time the other way round."""
    if number % 2:
        theirs = side.generate(requests)
        return side.ours(requests), theirs
    return side.ours(requests), side.generate(requests)


def measure_static(report: Report, options: Options) -> None:
    """Rows `serving.batch16` and `serving.single`; beside the first, what it is with a store, and transformers' own."""
    random, rounds = Random(16), 2 if options.quick else 5
    tokens, output = (32, 4) if options.quick else (128, 64)
    with sides(options) as side:
        for count, id, bar, reach in ((TOGETHER, "serving.batch16", 0.90, 1.10), (1, "serving.single", 0.9, 1.1)):
            found: list[tuple[Done, Done]] = []
            stored: list[float] = []
            turns(side, equal(random, count, tokens, output), 0)
            for number in range(rounds):
                requests = equal(random, count, tokens, output)
                found.append(turns(side, requests, number))
                stored.append(found[-1][1].seconds / side.ours(requests, side.store).seconds)
            compared(report, id, found, bar, reach)
            report.add(f"{id}.stored", statistics.median(stored), "of generate, blocks put")
        requests = equal(random, TOGETHER, tokens, min(output, CONTINUOUS_TOKENS))
        both = side.generate(requests).seconds, side.continuous(requests)
        report.add("serving.batch16.continuous", both[0] / both[1], "of generate, transformers' continuous batching")


def measure_mixed(report: Report, options: Options) -> None:
    """Row `serving.mixed`. Requests come within half the time that `generate` takes for all of them at once."""
    random, rounds = Random(32), 2 if options.quick else 5
    with sides(options) as side:
        span = side.generate(mixed(random, options.quick, 0.0)).seconds / 2
        side.ours(mixed(random, options.quick, 0.0))
        found = [turns(side, mixed(random, options.quick, span), number) for number in range(rounds)]
        compared(report, "serving.mixed", found, 1.2, 1.8)
        report.add("serving.mixed.arrivals", span, "s until all are there", "lower")
