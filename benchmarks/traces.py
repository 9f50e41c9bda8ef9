"""Traces to judge eviction policies on, in the Mooncake format that `cachestore replay` reads.

    python benchmarks/traces.py OUT [--data DIR] [--seed N]

writes OUT/<name>.jsonl, one file per function below that has `@trace`; `sharegpt` needs DIR/sharegpt.json (DIR is
$CACHESTORE_DATA unless given) and is skipped without it. The same seed gives the same files. A line is one request:
`timestamp` in ms, `input_length` and `output_length` in tokens, and `hash_ids`, one id per block of its prompt, where
an id stands for the whole prefix up to that block.
"""

import json
import math
import os
from argparse import ArgumentParser
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import NamedTuple

BLOCK_TOKENS = 512
ANSWER_TOKENS = 200


class Request(NamedTuple):
    """One prompt: when it comes, in seconds, and the content of each of its blocks."""

    at: float
    blocks: Sequence[Hashable]


Maker = Callable[[Random], Iterator[Request]]
MAKERS: dict[str, Maker] = {}


def trace(maker: Maker) -> Maker:
    """Names a maker of requests, in any order of time, as a trace."""
    MAKERS[maker.__name__] = maker
    return maker


def between(random: Random, median: float, spread: float) -> float:
    """A lognormal draw; two thirds of all lie within a factor of e**spread of the median."""
    return median * math.exp(random.gauss(0, spread))


def zipf(count: int, exponent: float) -> list[float]:
    """Cumulative weights of `count` things, the most popular first."""
    return list(accumulate((rank + 1) ** -exponent for rank in range(count)))


def talk(
    random: Random, who: Hashable, start: float, opening: Sequence[Hashable], turns: int, think: float
) -> Iterator[Request]:
    """A conversation: each prompt is the last one with its answer and a new question behind it."""
    blocks, at = list(opening), start
    for _ in range(turns):
        blocks += [(who, len(blocks) + number) for number in range(1 + int(between(random, 2, 1)))]
        yield Request(at, tuple(blocks))
        at += between(random, think, 1)


def turns(random: Random, mean: float) -> int:
    """A geometric number of turns, at least one."""
    return 1 + int(random.expovariate(1 / (mean - 1))) if mean > 1 else 1


@trace
def chat(random: Random) -> Iterator[Request]:
    """Nothing but conversations: a Poisson stream of users with a shared system prompt, who think for a minute."""
    at = 0.0
    for user in range(3000):
        at += random.expovariate(1)
        opening = [("system", 0), *((user, -number) for number in range(int(between(random, 4, 1))))]
        yield from talk(random, user, at, opening, turns(random, 4), 60)


@trace
def oneoff(random: Random) -> Iterator[Request]:
    """Conversations among twice as many long prompts that never come again."""
    at = 0.0
    for user in range(3600):
        at += random.expovariate(1)
        if user % 3:
            yield Request(at, [("scan", user, number) for number in range(max(1, int(between(random, 15, 0.7))))])
        else:
            yield from talk(random, user, at, [("system", 0)], turns(random, 6), 60)


@trace
def bursts(random: Random) -> Iterator[Request]:
    """Conversations, and now and then a batch job that reads 200 documents in one go."""
    yield from chat(random)
    for job in range(5):
        for document in range(200):
            at = 500 * (job + 1) + document * 0.1
            yield Request(at, [("job", job, document, number) for number in range(20)])


@trace
def rag(random: Random) -> Iterator[Request]:
    """One system prompt, one of 1,500 documents by Zipf's law, one question that never comes again."""
    lengths, weights = [int(between(random, 15, 0.6)) + 1 for _ in range(1500)], zipf(1500, 0.9)
    for number in range(6000):
        document = random.choices(range(1500), cum_weights=weights)[0]
        head = [("system", block) for block in range(3)] + [(document, block) for block in range(lengths[document])]
        yield Request(number, [*head, (("question", number), 0)])


@trace
def moving(random: Random) -> Iterator[Request]:
    """RAG whose popular documents are others after every 1,500 requests."""
    weights, documents = zipf(1500, 1.0), list(range(1500))
    for number in range(7500):
        if number % 1500 == 0:
            random.shuffle(documents)
        document = random.choices(documents, cum_weights=weights)[0]
        yield Request(number, [*((document, block) for block in range(5 + document % 20)), ("question", number)])


@trace
def agents(random: Random) -> Iterator[Request]:
    """Agents that call tools: every step is the whole context again with a little more, a few seconds later."""
    at = 0.0
    for agent in range(260):
        at += random.expovariate(1 / 20)
        opening: list[Hashable] = [(("tools", agent % 5), block) for block in range(20)]
        opening += [(agent, -block) for block in range(int(between(random, 15, 0.6)))]
        yield from talk(random, agent, at, opening, turns(random, 12), 8)


@trace
def loop(random: Random) -> Iterator[Request]:
    """250 documents of 12 blocks, asked about one after the other, again and again."""
    for number in range(10000):
        yield Request(number, [*((number % 250, block) for block in range(12)), ("question", number)])


@trace
def recency(random: Random) -> Iterator[Request]:
    """Whatever was used last is the likeliest to come again: least recently used is the best that can be done."""
    stack: list[int] = []
    for number in range(10000):
        depth = int(between(random, 60, 1.5))
        document = stack.pop(-1 - depth) if depth < len(stack) else number
        stack.append(document)
        yield Request(number, [(document, block) for block in range(6 + document % 13)])


@trace
def flat(random: Random) -> Iterator[Request]:
    """No prefix tree at all: prompts of one block by Zipf's law, every fourth one new."""
    weights = zipf(20000, 0.8)
    for number in range(100000):
        content = random.choices(range(20000), cum_weights=weights)[0] if number % 4 else ("new", number)
        yield Request(number, [content])


@trace
def mixed(random: Random) -> Iterator[Request]:
    """Everything at once: half the conversations, agents, documents and prompts that never come again."""
    for keep, maker, span in ((0.4, chat, 3600), (0.5, agents, 5200), (0.4, rag, 6000), (0.4, oneoff, 3600)):
        kept: dict[Hashable, bool] = {}
        for request in maker(random):
            if kept.setdefault(request.blocks[-1][0], random.random() < keep):  # type: ignore[index]
                yield Request(request.at / span, [(maker.__name__, block) for block in request.blocks])


def sharegpt(random: Random, texts: Sequence[str]) -> Iterator[Request]:
    """Users who each lead one of the conversations of `texts`, in blocks of 16 words, each turn some 6 blocks on."""
    at = 0.0
    for user in range(1200):
        at += random.expovariate(1 / 2)
        words, now, end = random.choice(texts).split(), at, 0
        # every fourth user comes with the very text of others, as with a shared link; the rest write their own
        own = user if user % 4 else 0
        for _ in range(turns(random, 6)):
            end += 16 * (1 + int(between(random, 6, 0.8)))
            yield Request(now, [(own, *words[place : place + 16]) for place in range(0, min(end, len(words)), 16)])
            now += between(random, 60, 1)


def written(requests: Iterable[Request]) -> Iterator[str]:
    """Lines of the format, by time; blocks are numbered by content and everything before it, as they come."""
    numbers: dict[tuple[int, Hashable], int] = {}
    for request in sorted(requests, key=lambda request: request.at):
        ids, before = [], -1
        for block in request.blocks:
            before = numbers.setdefault((before, block), len(numbers))
            ids.append(before)
        line = {"timestamp": int(request.at * 1000), "input_length": len(ids) * BLOCK_TOKENS}
        yield json.dumps({**line, "output_length": ANSWER_TOKENS, "hash_ids": ids}) + "\n"


def makers(data: Path | None) -> dict[str, Maker]:
    """All makers by name; `sharegpt` is among them if `data` is a folder that has sharegpt.json."""
    found = dict(MAKERS)
    if data is not None and (source := data / "sharegpt.json").is_file():
        texts = [entry["input"] for entry in json.loads(source.read_text())]
        found["sharegpt"] = lambda random: sharegpt(random, texts)
    return found


def made(name: str, maker: Maker, seed: int) -> list[str]:
    """The lines of one trace."""
    return list(written(maker(Random(f"{name} {seed}"))))


def main() -> None:
    """Writes all traces."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder for the traces")
    parser.add_argument("--data", type=Path, default=os.environ.get("CACHESTORE_DATA"), help="folder of sharegpt.json")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    known = makers(options.data)
    if "sharegpt" not in known:
        print("sharegpt: skipped, no sharegpt.json (--data DIR)")
    for name, maker in known.items():
        lines = made(name, maker, options.seed)
        (options.out / f"{name}.jsonl").write_text("".join(lines))
        print(f"{name}: {len(lines)} requests")


if __name__ == "__main__":
    main()
