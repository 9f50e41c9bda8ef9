"""Random stores, loads and removals through LMCache, of which every byte that comes is compared.

Two engines with our remote connector and two servers with our L2 adapter work at the same time on one store; one of
the servers has LMCache's own faults injected.
"""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple

from integrations_store import progress

from tests.integrations.lmcache.engine import Engine, Server, WrongBytes

CHUNK, CHUNKS, PROMPTS = 16, 6, 200
"""Tokens of a chunk, chunks of a prompt, and how many prompts there are."""


class Count(NamedTuple):
    """What some operations did: how many, chunks that came, and loads that brought a wrong byte."""

    done: int
    came: int
    wrong: int


def wrong_bytes(address: str, operations: int) -> dict[str, int]:
    """By adapter, how many of so many random operations gave wrong bytes."""
    with ExitStack() as stack:

        def opened(one: Engine | Server) -> Engine | Server:
            return stack.enter_context(closing(one))

        sides = {
            "lmcache_connector": [opened(Engine(address)), opened(Engine(address, own={"threads": 1}))],
            "lmcache_l2": [opened(Server(address)), opened(Server(address, faults={"rate": 0.2, "seed": 3}))],
        }
        threads = stack.enter_context(ThreadPoolExecutor(4))
        running = {
            adapter: [threads.submit(_operations, one, operations // 2, seed) for seed, one in enumerate(each)]
            for adapter, each in sides.items()
        }
        found = {adapter: [each.result() for each in work] for adapter, work in running.items()}
    for adapter, counts in found.items():
        done, came, wrong = map(sum, zip(*counts, strict=True))
        progress(f"{adapter}: {done} operations, {came} chunks loaded, {wrong} loads with wrong bytes")
        assert all(each.came for each in counts), "nothing was loaded"
    return {adapter: sum(each.wrong for each in counts) for adapter, counts in found.items()}


def _operations(one: Engine | Server, operations: int, seed: int) -> Count:
    choose, done, came, wrong = random.Random(seed), 0, 0, 0
    store, load, remove = _calls(one)
    for _ in range(operations):
        prompt = random.Random(choose.randrange(PROMPTS)).choices(range(1000), k=CHUNK * CHUNKS)
        tokens, what = prompt[: CHUNK * choose.randrange(1, CHUNKS + 1)], choose.random()
        try:
            if what < 0.3:
                store(tokens)
            elif what < 0.35:
                remove(tokens)
            else:
                came += load(tokens)
        except WrongBytes:
            wrong += 1
        done += 1
    return Count(done, came, wrong)


Call = Callable[[list[int]], int]


def _calls(one: Engine | Server) -> tuple[Call, Call, Call]:
    """How this one stores a prompt, loads it, and removes what comes last of it; a load says how many chunks came."""
    if isinstance(one, Engine):

        def remove_last(tokens: list[int]) -> int:
            return int(one.connector.remove_sync(one.keys(tokens)[-1]))

        return one.begin_store, one.load, remove_last

    def load(tokens: list[int]) -> int:
        came = one.load(one.keys(tokens))
        # or LMCache would have it from its own memory the next time
        one.forget()
        return came

    def store(tokens: list[int]) -> int:
        keys = one.keys(tokens)
        one.store(keys)
        return len(keys)

    def remove(tokens: list[int]) -> int:
        one.adapter.delete(one.keys(tokens)[-1:])
        return 1

    return store, load, remove
