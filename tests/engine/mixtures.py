"""Sequences of every kind at once on two loops, for comparison with lone cold runs of transformers."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch

from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchProgress, BatchToken
from cachestore.engine.batch_stream import BatchStream
from cachestore.engine.first_token import FirstToken
from cachestore.errors import Unavailable
from cachestore.store.base import Purpose
from tests.engine.batches import prompt, reference, request

NEAR = 1e-4
"""Below this difference between the two best logits of the reference, either token is right."""
CLIENTS = 12


class Lone(NamedTuple):
    """What transformers makes of a prompt, and how far its second best logit was off at each token."""

    tokens: list[int]
    gaps: list[float]


def lone(path: Path, tokens: Sequence[int], new: int) -> Lone:
    """A cold run of a prompt alone."""
    ids = torch.tensor([list(tokens)])
    out = reference(path).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None,
        pad_token_id=0, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    best = [logits[0].float().topk(2).values for logits in out.logits]
    return Lone(out.sequences[0, len(tokens) :].tolist(), [float(one - two) for one, two in best])


def near_tie(made: list[int], wanted: Lone) -> bool:
    """Whether the first difference is one that rounding may make; AssertionError if it is none of these."""
    assert len(made) == len(wanted.tokens)
    differ = [at for at, (one, two) in enumerate(zip(made, wanted.tokens, strict=True)) if one != two]
    if differ:
        assert wanted.gaps[differ[0]] < NEAR, f"token {differ[0]} differs, {wanted.gaps[differ[0]]} off"
    return bool(differ)


def prompts(count: int, order: random.Random, longest: int) -> list[list[int]]:
    """Random prompts, of which about half share a prefix of any length with one before."""
    several: list[list[int]] = []
    for seed in range(count):
        fresh = prompt(order.randint(1, longest), seed)
        before = order.choice(several) if several and order.random() < 0.5 else []
        several.append([*before[: order.randint(0, len(before))], *fresh][:longest])
    return several


class Moody:
    """A store that fails every so often, before a call, in the middle of a read and in the middle of a put."""

    def __init__(self, store: Any, rate: float) -> None:
        self.failed = 0
        self._store = store
        self._rate = rate
        self._order = random.Random(0)
        self._lock = Lock()

    def mood(self) -> None:
        with self._lock:
            if self._order.random() < self._rate:
                self.failed += 1
                raise Unavailable("not now")

    def lookup(self, *arguments: Any, **options: Any) -> Any:
        self.mood()
        return self._store.lookup(*arguments, **options)

    @contextmanager
    def read(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        self.mood()
        with self._store.read(*arguments, **options) as reading:
            yield _Reading(self, reading)

    @contextmanager
    def put(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        self.mood()
        with self._store.put(*arguments, **options) as put:
            yield _Put(self, put)


@dataclass
class _Reading:
    moody: Moody
    reading: Any

    def planes(self) -> Iterator[Any]:
        for plane in self.reading.planes():
            self.moody.mood()
            yield plane

    def __iter__(self) -> Iterator[Any]:
        for loaded in self.reading:
            self.moody.mood()
            yield loaded


@dataclass
class _Put:
    moody: Moody
    put: Any

    @property
    def answers(self) -> Any:
        return self.put.answers

    def write(self, *arguments: Any) -> None:
        self.moody.mood()
        self.put.write(*arguments)

    def write_encoded(self, *arguments: Any) -> None:
        self.moody.mood()
        self.put.write_encoded(*arguments)

    def commit(self, *arguments: Any) -> None:
        self.moody.mood()
        self.put.commit(*arguments)


@dataclass
class Mixture:
    """Asks two loops, each with a store of its own to the same blocks, in every way there is."""

    loops: Sequence[tuple[BatchLoop, Any]]
    new: int
    order: random.Random
    kinds: Counter[str] = field(default_factory=Counter)

    def run(self, several: Sequence[list[int]]) -> list[list[int]]:
        """The tokens of each prompt; `kinds` counts how they were asked for."""
        ways = [
            self.order.choice([self._plain, self._cold, self._migrated, self._retried, self._handed]) for _ in several
        ]
        seeds = [self.order.random() for _ in several]
        with ThreadPoolExecutor(CLIENTS) as clients:
            jobs = [
                clients.submit(way, tokens, random.Random(seed))
                for way, tokens, seed in zip(ways, several, seeds, strict=True)
            ]
            made = [job.result() for job in jobs]
        self.kinds.update(way.__name__[1:] for way in ways)
        return made

    def _ask(self, order: random.Random, tokens: Sequence[int], new: int, **fields: Any) -> BatchStream:
        loop, store = order.choice(self.loops)
        # predicted to be much too short, so that too many start
        return loop.submit(request(tokens, new, **{"store": store, "expected": 1, **fields}))

    def _plain(self, tokens: list[int], order: random.Random) -> list[int]:
        return _made(self._ask(order, tokens, self.new))

    def _cold(self, tokens: list[int], order: random.Random) -> list[int]:
        return _made(self._ask(order, tokens, self.new, store=None, extras={0: [order.randbytes(16)]}))

    def _migrated(self, tokens: list[int], order: random.Random) -> list[int]:
        """Begun on one loop, given up in the middle, and gone on from its tokens so far."""
        with self._ask(order, tokens, self.new) as stream:
            some = _ids(islice(stream, order.randint(0, self.new - 1)))
        return some + _made(self._ask(order, [*tokens, *some], self.new - len(some)))

    def _retried(self, tokens: list[int], order: random.Random) -> list[int]:
        """Given up in the middle and asked for again from the beginning."""
        with self._ask(order, tokens, self.new) as stream:
            list(islice(stream, order.randint(0, self.new - 1)))
        return self._plain(tokens, order)

    def _handed(self, tokens: list[int], order: random.Random) -> list[int]:
        """Computed on one loop for the other, which the first sometimes lets down."""
        (prefill, out), (decode, into) = order.sample(self.loops, 2)
        first = FirstToken()
        how = {"store": into, "wait": 5.0, "purpose": Purpose.HANDOFF, "first": first}
        with prefill.submit(request(tokens, 1, store=out, by_slot=True, settle=True)) as handing:
            for item in handing:
                if not isinstance(item, BatchProgress) or item.begun:
                    break
            waiting = decode.submit(request(tokens, self.new, **how, expected=1))
            if order.random() < 0.7:
                known = _ids([item]) or _ids(handing)
                first.tell(known[0])
        first.give_up()
        return _made(waiting)


def _ids(items: Any) -> list[int]:
    return [item.id for item in items if isinstance(item, BatchToken)]


def _made(stream: BatchStream) -> list[int]:
    return _ids(stream)
