"""The rows of `serving.py` about how soon an answer begins, through real processes."""

from __future__ import annotations

import statistics
from random import Random
from typing import TYPE_CHECKING

from report import Report
from serving_model import LARGE, TINY, made, prompt
from serving_processes import Timed, added, await_true, system, timed

if TYPE_CHECKING:
    from serving import Options

BLOCK = 64
CPU = '[[tiers]]\nname = "cpu"\ncapacity = "1GiB"\n'
REDIS = '[[tiers]]\nname = "redis"\nurl = "embedded"\ncapacity = "1GiB"\n'
THROUGH = '[store]\nwrite = "through"\n'


def measure_first_token(report: Report, options: Options) -> None:
    """Rows `serving.ttft_*`: three decode workers on one store are cold, warm from cpu and warm from Redis in turn.

    So that no worker has the prompt's pages by itself, and each has measured both ways.
    """
    random, rounds, length = Random(4096), 2 if options.quick else 4, 256 if options.quick else 4096
    blocks = length // BLOCK
    found: list[tuple[float, float, float]] = []
    with made(TINY if options.quick else LARGE) as model, system(model) as started:
        store = started.store(CPU + REDIS + THROUGH)
        decoders = [started.decode(store) for _ in range(3)]
        for decoder in decoders:
            # the first request of a process pays for what later ones find done
            timed(decoder, prompt(random, BLOCK), 1)
        for number in range(rounds):
            first, second, third = (decoders[(number + place) % 3] for place in range(3))
            tokens, before = prompt(random, length), added(store, "redis")
            cold = timed(first, tokens, 1)
            await_true(lambda: added(store, "redis") >= before + blocks, "blocks in Redis")  # noqa: B023
            warm = timed(second, tokens, 1)
            store.client.clear("cpu")
            redis = timed(third, tokens, 1)
            check(cold, "", 0)
            check(warm, "cpu", blocks * BLOCK)
            check(redis, "redis", blocks * BLOCK)
            if not cold.tokens == warm.tokens == redis.tokens:
                raise RuntimeError(f"the token is {cold.tokens} cold, {warm.tokens} and {redis.tokens} warm")
            found.append((cold.seconds, warm.seconds, redis.seconds))
    for place, name, bar, reach in ((1, "warm", 0.10, 0.05), (2, "redis", 0.25, 0.12)):
        ratio = statistics.median(times[place] / times[0] for times in found)
        report.add(f"serving.ttft_{name}", ratio, "of cold", "lower", bar=bar, reach=reach)
        seconds = statistics.median(times[place] for times in found)
        report.add(f"serving.ttft_{name}.ms", 1000 * seconds, "ms", "lower")
    report.add("serving.ttft_cold.ms", 1000 * statistics.median(times[0] for times in found), "ms", "lower")


def check(asked: Timed, tier: str, tokens: int) -> None:
    """An error unless so many tokens of the prompt came from this tier, and none from another."""
    reused = {name: count for name, count in asked.usage.reuse.reused.items() if count}
    if reused != ({tier: tokens} if tokens else {}):
        raise RuntimeError(f"of the prompt came {reused}; meant were {tokens} tokens from {tier or 'nowhere'}")


def measure_second_token(report: Report, options: Options) -> None:
    """Row `serving.disaggregated`: a prefill worker hands over to a decode worker, beside one worker that does both."""
    random, rounds, length = Random(2048), 2 if options.quick else 6, 256 if options.quick else 2048
    found: list[tuple[float, float]] = []
    firsts: list[tuple[float, float]] = []
    with made(TINY if options.quick else LARGE) as model, system(model) as started:
        apart, alone = started.store(CPU), started.store(CPU)
        started.prefill(apart)
        sides = [started.decode(apart, "[decode_worker]\nlocal_prefill_tokens = 0\n"), started.decode(alone)]
        for side in sides:
            timed(side, prompt(random, 2 * BLOCK), 2)
        for number in range(rounds):
            times: dict[int, Timed] = {}
            for side in (0, 1) if number % 2 else (1, 0):
                times[side] = timed(sides[side], tokens := prompt(random, length), 2)
                by = times[side].usage.prefilled_by
                if (by == "local") != (side == 1):
                    raise RuntimeError(f"{len(tokens)} tokens were prefilled by {by!r} on side {side}")
            found.append((times[0].seconds, times[1].seconds))
            firsts.append((times[0].usage.first_token_ms, times[1].usage.first_token_ms))
    ratio = statistics.median(ours / theirs for ours, theirs in found)
    report.add("serving.disaggregated", ratio, "of one worker", "lower", bar=1.15, reach=1.05)
    for place, name in enumerate(("disaggregated", "alone")):
        report.add(
            f"serving.disaggregated.{name}_ms", 1000 * statistics.median(one[place] for one in found), "ms", "lower"
        )
        report.add(
            f"serving.disaggregated.{name}_first_ms", statistics.median(one[place] for one in firsts), "ms", "lower"
        )  # fmt: skip
