"""A mirror that has caught up answers as the store does, whatever happened to the store and to the connection."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachestore.hashing import Chain
from cachestore.service.connection import Connection
from cachestore.service.events import mirror as mirrors
from cachestore.service.events.mirror import Mirror
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Lookup, Run, put_blocks
from cachestore.store.compose import compose
from cachestore.store.local import LocalStore
from cachestore.testing import random_prompt, small_spec

SPEC = small_spec(block_tokens=256)
"""Of blocks of 50 KiB, so that a few of them are more than memory has room for."""

PROMPTS = [random_prompt(SPEC, 12, seed) for seed in (1, 2)]
CHAIN, BLOCKS = PROMPTS[0]
CHAINS = [
    Chain(chain.fingerprint, chain.keys[first:last])
    for chain, _ in PROMPTS
    for first in range(0, 12, 3)
    for last in range(first, 13, 2)
]
FOREIGN = Chain(bytes(32), CHAIN.keys)
SOON = 10.0


class World:
    """A store over a folder, served on a socket, that can be started again and cut off; and a mirror of it."""

    def __init__(self, folder: Path, log_keys: int) -> None:
        self.folder, self.log_keys = folder, log_keys
        self.start()
        self.mirror = self.another()
        self.mirror.open()

    @property
    def local(self) -> LocalStore:
        return self.tiered.namespace("default")

    def another(self, fingerprint: bytes = b"", **how: Any) -> Mirror:
        return Mirror(Connection(f"unix:{self.folder}/store.sock"), fingerprint, **how)

    def start(self) -> None:
        tiers = [
            {"name": "cpu", "capacity": "1MiB"},
            {"name": "gpu", "device": "cpu", "capacity": "2MiB"},
            {"name": "disk", "path": str(self.folder / "disk"), "capacity": "1MiB"},
        ]
        self.tiered = compose({"tiers": tiers, "codecs": {"name": "raw"}, "store": {"hot_after": 1}})
        self.tiered.events.log_keys = self.log_keys
        self.tiered.open()
        self.serve()

    def serve(self) -> None:
        self.server = CacheStoreServer(self.tiered, ServiceSettings(unix_socket=f"{self.folder}/store.sock"))
        self.server.open()

    def put(self, prompt: int, first: int, count: int) -> None:
        chain, blocks = PROMPTS[prompt]
        put_blocks(self.local, chain.fingerprint, blocks[first : first + count])

    def read(self, prompt: int, first: int, count: int) -> None:
        chain = PROMPTS[prompt][0]
        with self.local.read(Chain(chain.fingerprint, chain.keys[first : first + count])) as reading:
            for _ in reading:
                pass

    def delete(self, prompt: int, first: int, count: int) -> None:
        chain = PROMPTS[prompt][0]
        self.local.delete(Chain(chain.fingerprint, chain.keys[first : first + count]))

    def clear(self, tier: str) -> None:
        self.local.clear(tier)

    def settle(self) -> None:
        self.tiered.settle()

    def cut(self) -> None:
        self.server.close(grace=0.0)
        self.serve()

    def restart(self) -> None:
        self.server.close(grace=0.0)
        self.tiered.close()
        self.start()

    def check(self) -> None:
        """Asserts that the mirror comes to answer as the store does."""
        assert self.tiered.settle()
        until = time.monotonic() + SOON
        while time.monotonic() < until:
            different = [chain for chain in (*CHAINS, FOREIGN) if self.mirror.lookup(chain) != self.local.lookup(chain)]
            if not different and self.mirror.fresh:
                return
            time.sleep(0.005)
        raise AssertionError(
            [(self.mirror.lookup(chain), self.local.lookup(chain)) for chain in different], self.mirror.error
        )

    def close(self) -> None:
        self.mirror.close()
        self.server.close(grace=0.0)
        self.tiered.close()


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []
    with tempfile.TemporaryDirectory() as root:

        def start(log_keys: int = 1 << 15) -> World:
            folder = Path(root) / str(len(worlds))
            folder.mkdir(mode=0o700)
            worlds.append(World(folder, log_keys))
            return worlds[-1]

        yield start
        for one in worlds:
            one.close()


prompts, firsts, counts = st.integers(0, 1), st.integers(0, 8), st.integers(1, 12)
steps = st.one_of(
    st.tuples(st.just("put"), prompts, firsts, counts),
    st.tuples(st.just("put"), prompts, firsts, counts),
    st.tuples(st.just("read"), prompts, firsts, counts),
    st.tuples(st.just("delete"), prompts, firsts, counts),
    st.tuples(st.just("clear"), st.sampled_from(["", "cpu", "gpu", "disk"])),
    st.tuples(st.sampled_from(["settle", "check", "cut", "restart"])),
)


def run(world: World, history: list[tuple[Any, ...]]) -> None:
    try:
        for name, *arguments in history:
            getattr(world, name)(*arguments)
        world.check()
    finally:
        world.close()


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(log_keys=st.sampled_from([8, 1 << 15]), history=st.lists(steps, max_size=12))
def test_after_any_history_the_mirror_is_the_index(
    world: Callable[..., World], log_keys: int, history: list[tuple[Any, ...]]
) -> None:
    run(world(log_keys), history)


@pytest.mark.slow
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(log_keys=st.sampled_from([4, 30, 1 << 15]), history=st.lists(steps, max_size=25))
def test_after_any_of_many_histories_the_mirror_is_the_index(
    world: Callable[..., World], log_keys: int, history: list[tuple[Any, ...]]
) -> None:
    run(world(log_keys), history)


def test_a_broken_connection_is_made_up_for_without_a_snapshot(world: Callable[..., World]) -> None:
    one = world()
    one.put(0, 0, 3)
    one.check()
    view = one.mirror._view
    one.cut()
    one.put(0, 3, 2)
    one.check()
    assert one.mirror._view is view


def test_a_store_that_started_again_is_mirrored_anew(world: Callable[..., World]) -> None:
    one = world()
    one.put(0, 0, 3)
    one.check()
    one.restart()
    one.check()
    assert one.mirror.lookup(CHAIN).runs == (Run(3, "disk", "local"),)


def test_a_mirror_without_a_store_knows_nothing_and_says_so(tmp_path: Path) -> None:
    with Mirror(Connection(f"unix:{tmp_path}/nobody")) as mirror:
        assert not mirror.settle(0.05)
        assert mirror.lookup(CHAIN) == Lookup(0, ())
        assert mirror.age == math.inf and not mirror.fresh
        began = time.monotonic()
    assert time.monotonic() - began < SOON


def test_a_mirror_of_a_store_that_is_away_grows_old(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "FRESH", 0.2)
    one = world()
    one.put(0, 0, 2)
    assert one.mirror.settle(SOON)
    one.server.close(grace=0.0)
    time.sleep(0.4)
    assert one.mirror.age > 0.2 and not one.mirror.fresh
    monkeypatch.setattr(mirrors, "FRESH", 3.0)
    one.serve()
    one.check()


def test_what_was_missed_is_not_told_again_and_makes_the_mirror_look_anew(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world()
    one.put(0, 0, 4)
    one.check()
    one.mirror.missed(CHAIN.keys[2:3])
    assert one.mirror.lookup(CHAIN).ready == 2
    # the store has it after all: what is told next, or a snapshot, brings it back
    monkeypatch.setattr(mirrors, "RENEW", 0.0)
    one.check()
    assert one.mirror.lookup(CHAIN).ready == 4


def test_a_mirror_of_one_spec_and_of_few_keys(world: Callable[..., World]) -> None:
    one = world()
    one.put(0, 0, 6)
    assert one.tiered.settle()
    with one.another(bytes(32)) as narrow:
        assert narrow.settle(SOON) and narrow.lookup(CHAIN).runs == (Run(6, "disk", "local"),)
    with one.another(CHAIN.fingerprint, most=1) as small:
        assert small.settle(SOON) and small.lookup(CHAIN) == one.local.lookup(CHAIN) and len(small) == 6
