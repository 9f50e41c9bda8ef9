"""Traces made by hand."""

import json
from collections.abc import Callable, Sequence
from random import Random

import pytest

from cachestore.replay.trace import Trace, parse


@pytest.fixture(scope="session")
def traced() -> Callable[..., Trace]:
    """The trace of these requests, each a list of hash ids."""

    def made(*requests: Sequence[int]) -> Trace:
        return parse("by hand", [json.dumps({"hash_ids": list(ids)}).encode() for ids in requests])

    return made


@pytest.fixture(scope="session")
def grown(traced: Callable[..., Trace]) -> Callable[..., Trace]:
    """The trace of these requests, each a list of branches taken from the root: the same branches, the same block."""

    def made(walks: Sequence[Sequence[int]]) -> Trace:
        numbers: dict[tuple[int, ...], int] = {}
        return traced(
            *[[numbers.setdefault(tuple(walk[: end + 1]), len(numbers)) for end in range(len(walk))] for walk in walks]
        )

    return made


@pytest.fixture(scope="session")
def conversations(grown: Callable[..., Trace]) -> Trace:
    """60 conversations of which each goes on a few times, mixed; most begin alike."""
    random, walks, spoken = Random(1), [], [[conversation % 3, conversation] for conversation in range(60)]
    for _ in range(300):
        talk = spoken[random.randrange(random.randrange(1, 61))]
        talk += [0] * random.randrange(3)
        walks.append(list(talk))
    return grown(walks)
